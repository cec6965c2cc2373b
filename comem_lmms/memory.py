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
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, get_origin, get_type_hints
from uuid import uuid4

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json, sync
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.records import KnowledgeItem

log = logging.getLogger(__name__)

MANIFEST = "bank.json"
FORMAT = 1
SHARD_SIZE = 512  # items; at 7B in bfloat16 a shard is 29 MB
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
_SAFETENSORS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int8": "I8"}
A_DAY = 24 * 3600  # seconds


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

    def check(self) -> None:
        """Raises TypeError for a value that no bank has."""
        given = asdict(self)
        wrong = [
            name
            for name, kind in get_type_hints(BankInfo).items()
            if not isinstance(given[name], get_origin(kind) or kind)
        ]
        wrong += ["dtype"] if not wrong and self.dtype not in STORED else []
        if wrong:
            raise TypeError(f"{wrong[0]} is {given[wrong[0]]!r}")

    @property
    def fingerprint(self) -> str:
        """Of all that a memory read from the bank depends on."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class MemoryBank:
    """Memories on disk, read memory-mapped; `open` or `create` one.

    Shards that are damaged are left out with a warning, and their items count as not encoded.
    """

    def __init__(self, folder: Path, info: BankInfo) -> None:
        self.folder, self.info = folder, info
        self._parts = ("memories", "scales") if info.dtype == "int8" else ("memories",)
        self._shards: dict[str, Any] = {}
        self._damaged: dict[str, int] = {}
        self._places: dict[bytes, tuple[str, int]] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def __getitem__(self, key: str) -> Tensor:
        """The memory of an item, (n_vectors, D), float32 where it is stored as int8.

        Raises:
            UserError: its bytes are not those that were written, or no numbers, which this class never writes.
        """
        name, row = self._places[bytes.fromhex(key)]
        shard = self._shards[name]
        parts = {part: shard.get_slice(part)[row : row + 1] for part in self._parts}
        if _checksums(parts) != shard.get_slice("checksums")[row : row + 1].tolist():
            raise UserError(f"{self.folder / name} is damaged (a checksum differs); delete it and memorize again")
        memory = _restore(parts)[0]
        if not torch.isfinite(memory).all():
            raise UserError(f"{self.folder / name} holds memories that are not finite; delete it and memorize again")
        return memory

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
        with _writing(self.folder):
            partial = _write_partial(self.folder, name, save(tensors, metadata={"ids": json.dumps(list(ids))}))
            os.replace(partial, self.folder / name)
            sync(self.folder)
        self._shards.pop(name, None)
        self.refresh()

    def refresh(self) -> None:
        """Takes in the shards that have appeared since."""
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path.name not in self._shards and self._damaged.get(path.name) != path.stat().st_mtime_ns:
                self._open(path)

    def _open(self, path: Path) -> None:
        if not os.access(path, os.R_OK):
            raise UserError(f"{path} cannot be read; ask its owner for the right to")
        shape = (self.info.n_vectors, self.info.hidden_size)
        try:
            shard = safe_open(path, framework="pt")
            keys = shard.get_tensor("keys").numpy()
            found, *_ = [shard.get_slice(part) for part in self._parts]
            if tuple(found.get_shape()) != (len(keys), *shape) or found.get_dtype() != _SAFETENSORS[self.info.dtype]:
                raise ValueError(f"memories are not {shape[0]} x {shape[1]} {self.info.dtype}")
        except Exception as error:  # safetensors raises its own
            self._damaged[path.name] = path.stat().st_mtime_ns
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
        if about.get("format", FORMAT) != FORMAT:
            raise UserError(f"{path} is of format {about['format']}, and {FORMAT} is known; update comem-lmms")
        try:
            info = BankInfo(**about["bank"])
            info.check()
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is not the manifest of a memory bank ({error}); memorize again") from error
        return cls(Path(folder), info)

    @classmethod
    def create(cls, folder: str | Path, info: BankInfo) -> "MemoryBank":
        """An empty bank in a new or empty folder, or the one that another process has just made there.

        Raises:
            UserError: the folder holds something else, or a bank of another encoder or dtype.
        """
        folder = Path(folder)
        check_place(folder, info.dtype)
        versions = {name: version(name) for name in ("comem-lmms", "torch", "transformers", "peft")}
        about = {"format": FORMAT, "bank": asdict(info), "made_with": versions}
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            partial = _write_partial(folder, MANIFEST, json.dumps(about, indent=1).encode())
            try:
                os.link(partial, folder / MANIFEST)  # unlike a renaming, refuses to replace another's
            except FileExistsError:
                log.info("another process has made the bank %s", folder)
            finally:
                partial.unlink()
        bank = cls.open(folder)
        bank.check_encoder(info.encoder)
        if bank.info.dtype != info.dtype:
            raise UserError(f"memory bank {folder} stores {bank.info.dtype}, not {info.dtype}; give another folder")
        return bank

    @property
    def nbytes(self) -> int:
        """On disk."""
        return sum((self.folder / name).stat().st_size for name in self._shards)

    def remove_leftovers(self) -> None:
        """Deletes what killed processes of this machine were writing, and what is older than a day."""
        for path in self.folder.glob(".*.partial"):
            _, host, pid, _ = path.name.rsplit("|", 3)
            dead = host == socket.gethostname() and not _is_alive(int(pid))
            if dead or time.time() - path.stat().st_mtime > A_DAY:
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
    quiet: bool = False,
) -> None:
    """Encodes the items of rows that have no memory yet, ``shard_size`` at a time.

    Which items share a batch decides the last bits of a memory. It depends on ``rows`` and the sizes only, not on
    interruptions or the number of processes, unless items have the same content.

    Args:
        process, processes: of those that share the work, which this is, and how many there are.
        quiet: without a progress bar.

    Raises:
        UserError: an item cannot be read, or its memory is not finite.
    """
    shards = [rows[i : i + shard_size] for i in range(0, len(rows), shard_size)][process::processes]
    total = sum(map(len, shards))
    with tqdm(total=total, desc="Encoding", unit="item", disable=quiet) as bar:
        for shard in shards:
            memories.refresh()
            missing = {key: row for row in shard if (key := knowledge.key(row)) not in memories}
            if missing:
                made = _encode(encoder, knowledge, list(missing.values()), batch_size)
                memories.add([knowledge.id(row) for row in missing.values()], list(missing), made)
            bar.update(len(shard))


def check_place(folder: Path, dtype: str) -> None:
    """Raises UserError where no bank can be made or added to, before any work."""
    if dtype not in STORED:
        raise UserError(f"a bank cannot be stored as {dtype!r}; choose one of {', '.join(STORED)}")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the memory bank")
    if not (folder / MANIFEST).is_file() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and no memory bank; give a folder of its own")
    if not os.access(folder, os.W_OK):
        raise UserError(f"memory bank {folder} cannot be written to; ask its owner, or copy it")


def prefix(memories: Memories, keys: Iterable[str]) -> Tensor:
    """The memories of items one behind the other, (n_vectors * items, D)."""
    return torch.cat([memories[key] for key in keys])


def _encode(encoder: MemoryEncoder, knowledge: KnowledgeBase, rows: list[int], batch_size: int) -> Tensor:
    """(n, n_vectors, D) on the CPU; items of similar length share a batch."""
    order = sorted(range(len(rows)), key=lambda i: (-len(knowledge.row(rows[i]).text), i))
    made: dict[int, Tensor] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        items = [knowledge[rows[i]] for i in batch]
        try:
            encoded = encoder.encode(items).cpu()
        except ValueError as error:  # a processor's, e.g. for an image 200 times as wide as high
            raise UserError(f"{_culprit(encoder, items)} cannot be encoded ({one_line(error)}); mend it") from error
        for i, memory in zip(batch, encoded, strict=True):
            if not torch.isfinite(memory).all():
                id_ = knowledge.id(rows[i])
                remedy = "the encoder is damaged" if encoded.dtype == torch.float32 else "try dtype=float32"
                raise UserError(f"the memory of item {id_!r} is not finite in {encoded.dtype}; {remedy}")
            made[i] = memory
    return torch.stack([made[i] for i in range(len(rows))])


def _culprit(encoder: MemoryEncoder, items: Sequence[KnowledgeItem]) -> str:
    """Which item of a batch cannot be laid out."""
    for item in items:
        try:
            encoder.tokenize([item])
        except ValueError:
            return f"item {item.id!r}"
    return f"item {items[0].id!r}, or another of its batch,"


def _store(memories: Tensor, dtype: str) -> dict[str, Tensor]:
    if dtype != "int8":
        return {"memories": memories.to(STORED[dtype]).contiguous()}
    tiny = torch.finfo(torch.float32).tiny
    scales = (memories.float().abs().amax(-1) / 127).clamp(min=tiny)  # (n, n_vectors); not 0, nor of few bits
    steps = memories.float() / scales[..., None]
    return {"memories": steps.round().to(torch.int8), "scales": scales}


def _restore(tensors: dict[str, Tensor]) -> Tensor:
    memories = tensors["memories"]
    return memories.float() * tensors["scales"][..., None] if "scales" in tensors else memories


def _checksums(tensors: dict[str, Tensor]) -> list[int]:
    """CRC-32 of each item's bytes."""
    rows = zip(*(tensors[part].flatten(1).view(torch.uint8) for part in sorted(tensors)), strict=True)
    return [zlib.crc32(b"".join(part.numpy().tobytes() for part in row)) for row in rows]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says in one line what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to memory bank {folder} ({error}); what it holds stays") from error


def _write_partial(folder: Path, name: str, content: bytes) -> Path:
    """A file under a name that nobody else uses, its content on the disk."""
    path = folder / f".{name}|{socket.gethostname()}|{os.getpid()}|{uuid4().hex[:8]}.partial"
    try:
        path.write_bytes(content)
        sync(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


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
