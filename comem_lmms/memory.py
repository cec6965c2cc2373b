"""Memories by knowledge item: encoded once, kept in this process or in a bank on disk, read without the encoder.

A bank is a folder of ``bank.json``, which says which encoder made the memories, and immutable safetensors shards, each
of which appears whole or not at all: any number of processes may read and write at the same time, and what is killed
loses the shard it was at. A memory is found by its item's content (`KnowledgeBase.key`), so a knowledge base may grow.
"""

import hashlib
import json
import logging
import os
import socket
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json, write_json
from comem_lmms.knowledge import KnowledgeBase

log = logging.getLogger(__name__)

MANIFEST = "bank.json"
SHARD_SIZE = 512  # items; at 7B in bfloat16 a shard is 29 MB
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}


class Memories(Protocol):
    """Where memories are kept, by item key."""

    def __contains__(self, key: str) -> bool: ...

    def __getitem__(self, key: str) -> Tensor:
        """(n_vectors, D)."""

    def add(self, ids: Sequence[str], keys: Sequence[str], memories: Tensor) -> None:
        """Keeps the memories (n, n_vectors, D) of n items."""

    def refresh(self) -> None:
        """Takes in what other processes have added."""


class ProcessMemories(dict[str, Tensor]):
    """Memories that end with this process."""

    def add(self, ids: Sequence[str], keys: Sequence[str], memories: Tensor) -> None:
        """Keeps the memories (n, n_vectors, D) of n items."""
        self.update(zip(keys, memories, strict=True))

    def refresh(self) -> None:
        """Nothing: no other process adds any."""


@dataclass(frozen=True)
class BankInfo:
    """What a bank holds.

    Attributes:
        encoder: fingerprint of each part that a memory depends on: encoder, VLM, preprocessing, compute dtype, mode.
        vlm: the VLM whose embedding space the memories are in, as it was called.
        vlm_embeddings: fingerprint of that VLM's token embeddings.
        n_vectors, hidden_size: shape of a memory.
        dtype: what memories are stored in: float32, bfloat16, float16 or int8 (with one scale a vector).
    """

    encoder: dict[str, str]
    vlm: str
    vlm_embeddings: str
    n_vectors: int
    hidden_size: int
    dtype: str


class MemoryBank:
    """Memories on disk, read memory-mapped; `open` or `create` one.

    Shards that are damaged are left out with a warning, and their items count as not encoded.
    """

    def __init__(self, folder: Path, info: BankInfo) -> None:
        self.folder, self.info = folder, info
        self._parts = ("memories", "scales") if info.dtype == "int8" else ("memories",)
        self._shards: dict[str, Any] = {}
        self._places: dict[bytes, tuple[str, int]] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def __getitem__(self, key: str) -> Tensor:
        """The memory of an item, (n_vectors, D), float32 where it is stored as int8.

        Raises:
            UserError: its bytes are not those that were written.
        """
        name, row = self._places[bytes.fromhex(key)]
        shard = self._shards[name]
        parts = {part: shard.get_slice(part)[row : row + 1] for part in self._parts}
        if _checksums(parts) != shard.get_slice("checksums")[row : row + 1].tolist():
            raise UserError(f"{self.folder / name} is damaged (a checksum differs); delete it and memorize again")
        return _restore(parts)[0]

    def add(self, ids: Sequence[str], keys: Sequence[str], memories: Tensor) -> None:
        """Writes a shard of the memories (n, n_vectors, D) of n items; it appears whole or not at all.

        Raises:
            UserError: a memory has values that the bank's dtype cannot hold.
        """
        tensors = _store(memories.cpu(), self.info.dtype)
        for id_, memory in zip(ids, _restore(tensors), strict=True):
            if not torch.isfinite(memory).all():
                raise UserError(f"the memory of item {id_!r} does not fit into {self.info.dtype}; use bfloat16")
        tensors["checksums"] = torch.tensor(_checksums(tensors))
        tensors["keys"] = torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16] + ".safetensors"
        partial = self.folder / f".{name}.{socket.gethostname()}.{os.getpid()}.partial"
        save_file(tensors, partial, metadata={"ids": json.dumps(list(ids))})
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, self.folder / name)
        self._shards.pop(name, None)
        self.refresh()

    def refresh(self) -> None:
        """Takes in the shards that have appeared since."""
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path.name not in self._shards:
                self._open(path)

    def _open(self, path: Path) -> None:
        shape = (self.info.n_vectors, self.info.hidden_size)
        try:
            shard = safe_open(path, framework="pt")
            keys = shard.get_tensor("keys").numpy()
            if tuple(shard.get_slice("memories").get_shape()) != (len(keys), *shape):
                raise ValueError(f"memories are not {shape[0]} x {shape[1]}")
        except Exception as error:  # safetensors raises its own
            log.warning("%s is damaged (%s); its items count as not encoded", path, one_line(error))
            return
        self._shards[path.name] = shard
        self._places |= {key.tobytes(): (path.name, row) for row, key in enumerate(keys)}

    @classmethod
    def open(cls, folder: str | Path) -> "MemoryBank":
        """A bank that is there.

        Raises:
            UserError: it is not, or its manifest is not one.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise UserError(
                f"no memory bank at {str(folder)!r}: {MANIFEST} is missing; `comem-lmms memorize {folder}` makes one"
            )
        about = read_json(path)
        try:
            info = BankInfo(**about["bank"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is not the manifest of a memory bank ({error}); memorize again") from error
        return cls(Path(folder), info)

    @classmethod
    def create(cls, folder: str | Path, info: BankInfo) -> "MemoryBank":
        """An empty bank in a new or empty folder.

        Raises:
            UserError: the folder holds something else, or the dtype is unknown.
        """
        folder = Path(folder)
        if info.dtype not in STORED:
            raise UserError(f"a bank cannot be stored as {info.dtype!r}; choose one of {', '.join(STORED)}")
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and no memory bank; give a folder of its own")
        folder.mkdir(parents=True, exist_ok=True)
        versions = {name: version(name) for name in ("comem-lmms", "torch", "transformers", "peft")}
        write_json(folder / MANIFEST, {"format": 1, "bank": asdict(info), "made_with": versions})
        return cls(folder, info)

    def remove_leftovers(self) -> None:
        """Deletes what killed processes of this machine were writing."""
        for path in self.folder.glob(f".*.{socket.gethostname()}.*.partial"):
            if not _is_alive(int(path.name.split(".")[-2])):
                path.unlink(missing_ok=True)

    def check_encoder(self, wanted: dict[str, str]) -> None:
        """Raises UserError unless the bank was made by an encoder of these fingerprints."""
        differs = sorted(
            part for part in {*wanted, *self.info.encoder} if wanted.get(part) != self.info.encoder.get(part)
        )
        if differs:
            told = ", ".join(
                f"{part} {_short(self.info.encoder.get(part))} instead of {_short(wanted.get(part))}"
                for part in differs
            )
            raise UserError(
                f"memory bank {self.folder} was made by another encoder ({told}); give the arguments it was made "
                "with, or another memory_bank"
            )


def fill(
    memories: Memories,
    knowledge: KnowledgeBase,
    rows: Sequence[int],
    encoder: MemoryEncoder,
    batch_size: int,
    shard_size: int = SHARD_SIZE,
    process: int = 0,
    processes: int = 1,
) -> None:
    """Encodes the items of rows that have no memory yet, ``shard_size`` at a time.

    Which items share a batch depends on ``rows`` and the sizes only, not on interruptions or the number of processes,
    since it decides the last bits of a memory.

    Raises:
        UserError: an item cannot be read, or its memory is not finite.
    """
    memories.refresh()
    shards = [rows[i : i + shard_size] for i in range(0, len(rows), shard_size)][process::processes]
    total = sum(map(len, shards))
    with tqdm(total=total, desc="Encoding", unit="item", disable=process != 0) as bar:
        for shard in shards:
            missing = {key: row for row in shard if (key := knowledge.key(row)) not in memories}
            if missing:
                made = _encode(encoder, knowledge, list(missing.values()), batch_size)
                memories.add([knowledge.ids[row] for row in missing.values()], list(missing), made)
            bar.update(len(shard))


def prefix(memories: Memories, keys: Iterable[str]) -> Tensor:
    """The memories of items one behind the other, (n_vectors * items, D)."""
    return torch.cat([memories[key] for key in keys])


def _encode(encoder: MemoryEncoder, knowledge: KnowledgeBase, rows: list[int], batch_size: int) -> Tensor:
    """(n, n_vectors, D) on the CPU; items of similar length share a batch."""
    order = sorted(range(len(rows)), key=lambda i: (-len(knowledge.row(rows[i]).text), i))
    made: dict[int, Tensor] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        encoded = encoder.encode([knowledge[rows[i]] for i in batch]).cpu()
        for i, memory in zip(batch, encoded, strict=True):
            if not torch.isfinite(memory).all():
                id_ = knowledge.ids[rows[i]]
                raise UserError(f"the memory of item {id_!r} is not finite in {encoded.dtype}; try dtype=float32")
            made[i] = memory
    return torch.stack([made[i] for i in range(len(rows))])


def _store(memories: Tensor, dtype: str) -> dict[str, Tensor]:
    if dtype != "int8":
        return {"memories": memories.to(STORED[dtype]).contiguous()}
    scales = memories.float().abs().amax(-1) / 127  # (n, n_vectors)
    steps = memories.float() / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    return {"memories": steps.round().to(torch.int8), "scales": scales}


def _restore(tensors: dict[str, Tensor]) -> Tensor:
    memories = tensors["memories"]
    return memories.float() * tensors["scales"][..., None] if "scales" in tensors else memories


def _checksums(tensors: dict[str, Tensor]) -> list[int]:
    """CRC-32 of each item's bytes."""
    rows = zip(*(tensors[part].flatten(1).view(torch.uint8) for part in sorted(tensors)), strict=True)
    return [zlib.crc32(b"".join(part.numpy().tobytes() for part in row)) for row in rows]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _short(fingerprint: str | None) -> str:
    return str(fingerprint)[:12]
