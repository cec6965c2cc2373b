"""WIT's TSV shards: bytes line by line in, candidates and rejects out.

A shard is what a CSV writer makes with tabs: a cell with a tab, a quote or a line break is quoted, quotes in it are
doubled. A quote that is never closed must not swallow the rest of 3.7 million rows, so only so many lines are joined to
a record; if that fails, the first of them is rejected and the next is read anew.
"""

import codecs
import gzip
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from comem_lmms.errors import one_line
from comem_lmms.knowledge.candidates import DAMAGED, TRUNCATED, Candidate, Read, Reject

# https://github.com/google-research-datasets/wit/blob/main/DATA.md
COLUMNS = (
    *("language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title"),
    *("caption_reference_description", "caption_attribution_description", "caption_alt_text_description"),
    *("mime_type", "original_height", "original_width", "is_main_image", "attribution_passes_lang_id"),
    *("page_changed_recently", "context_page_description", "context_section_description"),
)
HEADER = b"\t".join(name.encode() for name in COLUMNS)
SHARD = "wit_v1.train.all-{:05}-of-00010.tsv.gz"
SHARDS = 10
URL = "https://storage.googleapis.com/gresearch/wit/{}"
ABOUT = {
    "source": "WIT, https://github.com/google-research-datasets/wit",
    "licence": "texts: CC BY-SA 3.0; images: each its own, see its page on Wikimedia",
    "attribution": "Srinivasan et al., WIT: Wikipedia-based Image Text Dataset, 2021, "
    "https://arxiv.org/abs/2103.01913; each item's `source` is the page that its text is from and the URL of its image",
}
MOST_BYTES = 1 << 20  # of a line, and of a record
MOST_LINES = 500  # of a record


def read(file: Path, name: str, place: Any) -> Iterator[Read]:
    """The rows of one shard, gzipped or not.

    Args:
        file: the shard.
        name: what the ids begin with; the number of the line follows, counted from 1.
        place: None, or where to go on: the number of lines and of (unpacked) bytes before.
    """
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as content:
        lines = _Lines(cast(BinaryIO, content), *(place or (0, 0)))
        while (first := lines.peek(0)) is not None:
            number = lines.number + 1
            if number == 1 and first.strip(b"\r\n").removeprefix(codecs.BOM_UTF8) == HEADER:
                lines.take(1)
                continue
            record, cells = _record(lines)
            lines.take(record)
            found = cells if isinstance(cells, Reject) else _candidate(cells)
            if isinstance(found, Reject):
                found = found._replace(place=f"{file.name}, line {number}")
            else:
                found = found._replace(id=f"{name}:{number}")
            yield Read([lines.number, lines.offset], found)
        if lines.error:
            kind = TRUNCATED if isinstance(lines.error, EOFError) else DAMAGED
            place = f"{file.name}, after line {lines.number}"
            yield Read([lines.number, lines.offset], Reject(place, kind, one_line(lines.error)))


class _Lines:
    """Lines of which some can be looked at before they are taken; ends at what cannot be read."""

    def __init__(self, content: BinaryIO, number: int, offset: int) -> None:
        self._content, self.number, self.offset = content, number, offset
        self._ahead: deque[bytes] = deque()
        self.error: Exception | None = None
        self._skip(offset)

    def _skip(self, offset: int) -> None:
        """What was read before. Of a gzipped file by the same lines, not by seeking: how much of a damaged one can be
        unpacked goes by the pieces in which it is."""
        if not isinstance(self._content, gzip.GzipFile):
            self._content.seek(offset)
            return
        while offset > 0 and (line := self._read()):
            offset -= len(line)

    def peek(self, at: int) -> bytes | None:
        while len(self._ahead) <= at:
            if self.error or not (line := self._read()):
                return None
            self._ahead.append(line)
        return self._ahead[at]

    def take(self, lines: int) -> None:
        for _ in range(lines):
            line = self._ahead.popleft()
            self.offset += len(line)
            self.number += line.endswith(b"\n")

    def _read(self) -> bytes:
        try:
            return self._content.readline(MOST_BYTES)
        except (EOFError, OSError, zlib.error) as error:
            self.error = error
            return b""


def _record(lines: _Lines) -> tuple[int, list[bytes] | Reject]:
    """How many lines make up the next record, and its cells or what is wrong."""
    first = lines.peek(0) or b""
    if _is_cut(first):
        while (piece := lines.peek(0)) and _is_cut(piece):
            lines.take(1)
        return (1 if piece else 0), Reject("", "line_too_long", f"more than {MOST_BYTES:,} bytes")
    if b'"' not in first:
        n, cells = 1, first.rstrip(b"\r\n").split(b"\t")
    else:
        n, cells = _quoted(lines)
        if not n or (n > 1 and len(cells) != len(COLUMNS)):
            return 1, Reject("", "broken_quoting", _shown(first))
    if len(cells) != len(COLUMNS):
        return n, Reject("", "wrong_columns", f"{len(cells)} columns, not {len(COLUMNS)}: {_shown(first)}")
    return n, cells


def _is_cut(line: bytes) -> bool:
    return len(line) == MOST_BYTES and not line.endswith(b"\n")


def _quoted(lines: _Lines) -> tuple[int, list[bytes]]:
    """A record with quoted cells: the number of its lines, 0 if they never make one, and its cells."""
    cells: list[bytes] = []
    cell: list[bytes] | None = None  # what there is of a quoted cell
    size = 0
    for n in range(MOST_LINES):
        line = lines.peek(n)
        size += len(line or b"")
        if not line or size > MOST_BYTES:
            break
        at = 0
        while True:
            if cell is None and line.startswith(b'"', at):
                cell, at = [], at + 1
            if cell is None:
                end = line.find(b"\t", at)
                if end < 0:
                    return n + 1, [*cells, line[at:].rstrip(b"\r\n")]
                cells.append(line[at:end])
            else:
                end = _closing(line, at)
                if end < 0:
                    cell.append(line[at:])
                    break  # it goes on in the next line
                cells.append(b"".join([*cell, line[at:end]]).replace(b'""', b'"'))
                cell, end = None, end + 1
                if line[end:].strip(b"\r\n") == b"":
                    return n + 1, cells
                if line[end : end + 1] != b"\t":
                    return 0, []
            at = end + 1
            if len(cells) > len(COLUMNS):
                return n + 1, cells
    return 0, []


def _closing(line: bytes, at: int) -> int:
    """Where a quoted cell ends, -1 if not in this line."""
    while (at := line.find(b'"', at)) >= 0 and line[at + 1 : at + 2] == b'"':
        at += 2
    return at


def _candidate(cells: list[bytes]) -> Candidate | Reject:
    try:
        row = {name: cell.decode() for name, cell in zip(COLUMNS, cells, strict=True)}
    except UnicodeDecodeError as error:
        return Reject("", "wrong_encoding", one_line(error))
    return candidate(row)


def candidate(row: dict[str, str]) -> Candidate | Reject:
    """An item of the columns of WIT, its text chosen as the paper does; without an id."""
    if not (text := row["context_section_description"] or row["context_page_description"]):
        return Reject("", "no_text", row["page_url"])
    if not row["image_url"]:
        return Reject("", "no_image", row["page_url"])
    return Candidate(
        id="",
        title=row["page_title"],
        text=text,
        language=row["language"],
        source=f"{row['page_url']} {row['image_url']}",
        image=row["image_url"],
        mime=row["mime_type"],
        width=_pixels(row["original_width"]),
        height=_pixels(row["original_height"]),
    )


def _pixels(cell: str) -> int | None:
    return int(cell) if cell.isascii() and cell.isdigit() and len(cell) < 10 else None


def _shown(line: bytes) -> str:
    return line[:100].decode("utf-8", "replace").rstrip()
