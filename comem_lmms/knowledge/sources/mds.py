"""The reference's retrieval results: folders of shards in the format of mosaicml-streaming, which says what each column
is. That library itself wants transformers below version 5, and would unpickle what a shard says is pickled.

Of the columns ``retrieval_info`` is read here: a list of ``{"image": base64, "passage_content": text}``, the items that
were found for a question, best first.
"""

import base64
import binascii
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json
from comem_lmms.knowledge.candidates import DAMAGED, Candidate, Read, Reject

INDEX, FOUND = "index.json", "retrieval_info"
ABOUT = {"source": "retrieval results of the reference implementation of CoMEM (MDS)", "licence": "none stated"}

_DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    "str": bytes.decode,
    "json": json.loads,
    "str_int": lambda data: int(data.decode()),
    "int": lambda data: struct.unpack("<q", data)[0],
    **{f"int{8 * size}": lambda data: int.from_bytes(data, "little", signed=True) for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}": lambda data: int.from_bytes(data, "little") for size in (1, 2, 4, 8)},
}


def shards(folder: Path) -> list[Path]:
    """The files of a folder, in order.

    Raises:
        UserError: there are none, or they are compressed.
    """
    listed = read_json(folder / INDEX).get("shards") or []
    if not listed or any(shard.get("format") != "mds" for shard in listed):
        raise UserError(f"{folder / INDEX} lists no MDS shards; give the folder of one data set, with {INDEX} in it")
    files = [folder / shard["raw_data"]["basename"] for shard in listed]
    for file, shard in zip(files, listed, strict=True):
        if not file.is_file():
            packed = (shard.get("zip_data") or {}).get("basename")
            remedy = (
                f"decompress {folder / packed}" if packed and (folder / packed).is_file() else "copy the folder again"
            )
            raise UserError(f"{file} is missing; {remedy}")
    return files


def columns(folder: Path) -> dict[str, str]:
    """Of a folder: its columns, and how each is encoded."""
    first = read_json(folder / INDEX)["shards"][0]
    return dict(zip(first["column_names"], first["column_encodings"], strict=True))


def samples(file: Path, wanted: tuple[str, ...], start: int = 0) -> Iterator[dict[str, Any]]:
    """Some columns of a shard's samples, from one on.

    Raises:
        UserError: a column is not there, or of a kind that is not read, such as a pickle.
        ValueError: the shard is damaged.
    """
    about = next(s for s in read_json(file.parent / INDEX)["shards"] if s["raw_data"]["basename"] == file.name)
    encodings = dict(zip(about["column_names"], about["column_encodings"], strict=True))
    for name in wanted:
        if encodings.get(name) not in _DECODERS:
            raise UserError(
                f"{file.parent}: column {name!r} is {encodings.get(name, 'not there')!r}, not one of "
                f"{', '.join(_DECODERS)}; columns: {', '.join(f'{n} ({e})' for n, e in encodings.items())}"
            )
    with file.open("rb") as content:
        (n,) = _unpacked("<I", content.read(4))
        offsets = _unpacked(f"<{n + 1}I", content.read(4 * (n + 1)))
        for begin, end in zip(offsets[start:-1], offsets[start + 1 :], strict=True):
            content.seek(begin)
            cells = _cells(content.read(end - begin), about["column_names"], about["column_sizes"])
            yield {name: _DECODERS[encodings[name]](cells[name]) for name in wanted}


def read(file: Path, name: str, place: Any) -> Iterator[Read]:
    """The items of a shard's samples, as a source of a knowledge base gives them."""
    sample, item = place or (0, 0)
    try:
        for number, cells in enumerate(samples(file, (FOUND,), sample), sample):
            found = entries(cells[FOUND])
            for at in range(item, len(found)):
                where = f"{file.name}, sample {number}, item {at}"
                after = [number, at + 1] if at + 1 < len(found) else [number + 1, 0]
                yield Read(after, _candidate(found[at], where))
            item = 0
    except (ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        yield Read([0, 0], Reject(file.name, DAMAGED, one_line(error)))


def entries(cell: Any) -> list[Any]:
    """What was found for one question; the column may be JSON, or a text of JSON.

    Raises:
        ValueError: it is neither.
    """
    found = json.loads(cell) if isinstance(cell, str) else cell
    if not isinstance(found, list):
        raise ValueError(f"{FOUND} is a {type(found).__name__}, not a list")
    return found


def id_of(entry: Any) -> str:
    """Of an item: the beginning of the SHA-256 of its text and image, so that it has the same for all questions."""
    told = [str(entry.get(name)) for name in ("passage_content", "image")] if isinstance(entry, dict) else [str(entry)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]


def _candidate(entry: Any, where: str) -> Candidate | Reject:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str | None):
        return Reject(where, "wrong_kind", "not an object with a base64 image")
    text = entry.get("passage_content")
    if not isinstance(text, str) or not text:
        return Reject(where, "no_text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a pair that JSON can spell
        return Reject(where, "wrong_encoding", one_line(error))
    try:
        image = base64.b64decode(entry["image"], validate=True) if entry.get("image") else None
    except (ValueError, binascii.Error) as error:
        return Reject(where, "wrong_kind", f"image: {one_line(error)}")
    return Candidate(id_of(entry), "", text, "", where, image)


def _unpacked(form: str, data: bytes) -> tuple[int, ...]:
    try:
        return struct.unpack(form, data)
    except struct.error as error:
        raise ValueError(f"cut off ({error})") from error


def _cells(data: bytes, names: list[str], fixed: list[int | None]) -> dict[str, bytes]:
    """The bytes of each column: sizes of those without a fixed one first, then all."""
    varying = sum(not size for size in fixed)
    sizes = iter(_unpacked(f"<{varying}I", data[: 4 * varying]))
    at, cells = 4 * varying, {}
    for name, size in zip(names, fixed, strict=True):
        end = at + (size or next(sizes))
        if end > len(data):
            raise ValueError(f"column {name} is cut off")
        cells[name], at = data[at:end], end
    return cells
