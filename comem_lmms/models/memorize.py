"""Makes memories beforehand: CoMEM's arguments and a knowledge base in, a memory bank out."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.memory import SHARD_SIZE, MemoryBank, check_place, fill
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.loading import Parts


def memorize(
    bank: str,
    arguments: MemoryArguments,
    dtype: str | None = None,
    ids: Collection[str] | None = None,
    shard_size: int = SHARD_SIZE,
) -> MemoryBank:
    """Encodes the items of a knowledge base that the bank lacks; under accelerate each process takes its share.

    Args:
        bank: folder of the bank, made if it is not there.
        arguments: of CoMEM: VLM, memory encoder, knowledge base, batch size.
        dtype: what a new bank stores; by default the encoder's.
        ids: of the items; all by default.
        shard_size: items that are written at a time, and lost at the most.

    Raises:
        UserError: a part is missing or does not fit, or the knowledge base has no item of an id.
    """
    _check(bank, arguments, dtype, shard_size)
    process = PartialState(cpu=not torch.cuda.is_available())
    device = arguments.device or (str(process.device) if torch.cuda.is_available() else "cpu")
    parts = Parts(replace(arguments, memory_bank=bank, memory_encoder=arguments.encoder), device)
    knowledge = KnowledgeBase.open(micro.resolve(arguments.knowledge, "knowledge"))
    rows = list(range(len(knowledge))) if ids is None else _rows(knowledge, ids)
    memories = parts.memories(dtype)
    assert isinstance(memories, MemoryBank)
    if dtype not in (None, memories.info.dtype):
        raise UserError(f"memory bank {bank} stores {memories.info.dtype}, not {dtype}; give another folder")
    if process.is_main_process:
        memories.remove_leftovers()
    share = (process.process_index, process.num_processes)
    quiet = not process.is_main_process
    fill(memories, knowledge, rows, parts.encoder, arguments.batch_size, shard_size, *share, quiet)
    process.wait_for_everyone()
    memories.refresh()
    return memories


def _check(bank: str, arguments: MemoryArguments, dtype: str | None, shard_size: int) -> None:
    """Raises UserError for what can be known to be wrong before anything is loaded."""
    if shard_size < 1:
        raise UserError(f"shard_size={shard_size} must be at least 1")
    if arguments.memory_bank not in (None, bank):
        raise UserError(
            f"memory_bank={arguments.memory_bank!r} in the model arguments is not the bank {bank!r}; drop it"
        )
    check_place(Path(bank), dtype or "float32")
    if arguments.encoder is None:
        raise UserError(
            f"pretrained={arguments.pretrained!r} needs memory_encoder=, made for it; give its folder or Hub id"
        )


def _rows(knowledge: KnowledgeBase, ids: Collection[str]) -> list[int]:
    rows = {id_: knowledge.find(id_) for id_ in ids}
    unknown = sorted(id_ for id_, row in rows.items() if row is None)
    if unknown:
        others = f" (nor {len(unknown) - 1} others that are asked for)" if len(unknown) > 1 else ""
        raise UserError(
            f"knowledge base {knowledge.folder} has no item {unknown[0]!r}{others}; give knowledge= that the retrieval "
            "run searched"
        )
    return sorted(row for row in rows.values() if row is not None)
