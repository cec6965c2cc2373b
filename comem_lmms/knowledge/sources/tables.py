"""A user's own rows: JSON lines, CSV (as `datasets` wants them beside a folder of images) or Parquet.

Columns: ``text``; optional ``id``, ``title``, ``language``, ``source`` and ``image``: the path of a file (from the
table's folder on), a URL, or a struct of ``bytes`` and ``path``. ``file_name`` is another name for a path.
"""

import base64
import binascii
import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comem_lmms.errors import one_line
from comem_lmms.knowledge.candidates import DAMAGED, Candidate, Read, Reject
from comem_lmms.knowledge.sources import parquet

TEXTS = ("id", "title", "text", "language", "source")
COLUMNS = (*TEXTS, "image", "file_name")
MOST_BYTES = 1 << 26  # of a line; an image may be in it


def read_parquet(file: Path, name: str, place: Any) -> Iterator[Read]:
    """The rows of a Parquet file."""
    start = place or 0
    for row, cells in enumerate(parquet.rows(file, start, COLUMNS), start):
        yield Read(row + 1, cells if isinstance(cells, Reject) else candidate(cells, file, name, f"row {row}", row))


def read_jsonl(file: Path, name: str, place: Any) -> Iterator[Read]:
    """The lines of a file of JSON objects."""
    number, offset = place or (0, 0)
    with file.open("rb") as content:
        content.seek(offset)
        while line := content.readline(MOST_BYTES):
            number, offset = number + 1, offset + len(line)
            where = f"line {number}"
            if len(line) == MOST_BYTES and not line.endswith(b"\n"):
                while (rest := content.readline(MOST_BYTES)) and not rest.endswith(b"\n"):
                    offset += len(rest)
                offset += len(rest)
                found: Candidate | Reject = Reject(f"{file.name}, {where}", "line_too_long")
            elif line.isspace():
                continue
            else:
                found = _line(line, file, name, where, number)
            yield Read([number, offset], found)


def read_csv(file: Path, name: str, place: Any) -> Iterator[Read]:
    """The rows of a CSV file with a header; it is small beside its images, so to go on it is read from the start."""
    csv.field_size_limit(MOST_BYTES)
    row = 0
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        try:
            for row, cells in enumerate(csv.DictReader(lines), 1):
                if row > (place or 0):
                    yield Read(row, _csv_row(cells, file, name, row))
        except csv.Error as error:  # a quote that is never closed, in a large file
            yield Read(row, Reject(f"{file.name}, after row {row}", DAMAGED, one_line(error)))


def candidate(cells: dict[str, Any], file: Path, name: str, where: str, number: int) -> Candidate | Reject:
    """An item of a row's cells."""
    place = f"{file.name}, {where}"
    texts: dict[str, str] = {}
    for column in TEXTS:
        value = cells.get(column)
        if column == "id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str | None):
            return Reject(place, "wrong_kind", f"{column} is a {type(value).__name__}, not a text")
        texts[column] = value or ""
    try:
        "".join(texts.values()).encode()
    except UnicodeEncodeError as error:  # half of a pair that JSON can spell
        return Reject(place, "wrong_encoding", one_line(error))
    if not texts["text"]:
        return Reject(place, "no_text")
    try:
        image = _image(cells.get("image") or cells.get("file_name"), file.parent)
    except (TypeError, binascii.Error) as error:
        return Reject(place, "wrong_kind", f"image: {one_line(error)}")
    source = place if cells.get("source") is None else texts["source"]
    return Candidate(texts["id"] or f"{name}:{number}", texts["title"], texts["text"], texts["language"], source, image)


def _csv_row(cells: dict[Any, Any], file: Path, name: str, row: int) -> Candidate | Reject:
    where = f"row {row}"
    if None in cells:
        return Reject(f"{file.name}, {where}", "wrong_columns")
    if "\ufffd" in "".join(map(str, cells.values())):
        return Reject(f"{file.name}, {where}", "wrong_encoding")
    return candidate(cells, file, name, where, row - 1)


def _line(line: bytes, file: Path, name: str, where: str, number: int) -> Candidate | Reject:
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        cells = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Reject(f"{file.name}, {where}", "wrong_encoding", one_line(error))
    except (ValueError, RecursionError) as error:
        return Reject(f"{file.name}, {where}", "not_json", one_line(error))
    if not isinstance(cells, dict):
        return Reject(f"{file.name}, {where}", "not_json", f"a {type(cells).__name__}, not an object")
    return candidate(cells, file, name, where, number)


def _image(cell: Any, folder: Path) -> bytes | str | Path | None:
    if isinstance(cell, dict):
        data = cell.get("bytes")
        if isinstance(data, str):  # JSON has no bytes
            data = base64.b64decode(data, validate=True)
        cell = cell.get("path") if data is None else data
    if not cell and not isinstance(cell, bytes):
        return None
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str):
        raise TypeError(f"a {type(cell).__name__}, not a path, a URL or a struct of bytes and path")
    return cell if re.match(r"[a-zA-Z][a-zA-Z+.-]+://", cell) else folder / cell
