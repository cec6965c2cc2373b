"""What a source gives: candidates for a knowledge base and rows that cannot be one, each with the place after it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple


class Candidate(NamedTuple):
    """A row of a source, before any filter and without its image being looked at.

    Attributes:
        id: where ids are not the source's own, made of the file and the place in it.
        title, text, language: as in `Row`.
        source: as in `Row`.
        image: the bytes of a file, a URL, the path of a file, or None for an item without one.
        mime, width, height: of the image as the source declares them; "" and None where it does not.
    """

    id: str
    title: str
    text: str
    language: str
    source: str
    image: bytes | str | Path | None
    mime: str = ""
    width: int | None = None
    height: int | None = None


class Reject(NamedTuple):
    """What was left out because something is wrong with it.

    Attributes:
        place: the file and the line or row.
        kind: one of a few words, to count by.
        detail: for people.
    """

    place: str
    kind: str
    detail: str = ""


# Kinds of rejects after which a file has no more rows.
TRUNCATED, DAMAGED = "file_truncated", "file_damaged"


class Read(NamedTuple):
    """What was found, and where to go on after it, as JSON."""

    position: Any
    found: Candidate | Reject


class Part(NamedTuple):
    """One file of a source.

    Attributes:
        name: short, the beginning of the ids of its rows.
        get: returns where it lies, and downloads it first if need be.
        done: called, once or more often, when all that was made of it is kept.
    """

    name: str
    get: Callable[[], Path]
    done: Callable[[], None] = lambda: None


# A file, its name and the place to go on at (None for the beginning) in, what is found and the places after it out.
Reader = Callable[[Path, str, Any], Iterator[Read]]


@dataclass(frozen=True)
class Source:
    """Files that are read one after the other, always in the same order.

    Attributes:
        parts: the files.
        reader: of all of them.
        settings: what decides what is read: names, sizes, revision.
        about: for the manifest: source, licence, attribution.
        rows: of each file, at most; None for all.
        ids: "place": made of the file and the place in it; "own": the source's, of which one that comes again is a
            mistake; "content": made of what an item holds, which is not stored again.
    """

    parts: list[Part]
    reader: Reader
    settings: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    ids: Literal["place", "own", "content"] = "place"
    rows: int | None = None

    def read(self, position: Any = None) -> Iterator[Read]:
        """All rows, or those after a position.

        Raises:
            UserError: a file cannot be had.
        """
        number, place, before = (*(position or (0, None)), 0)[:3]
        for at in range(number, len(self.parts)):
            part = self.parts[at]
            last: Read | None = None  # of which the next is known, or that there is none
            left = None if self.rows is None else self.rows - before
            for row, read in enumerate(islice(self.reader(part.get(), part.name, place), left), before):
                if last is not None:
                    yield Read([at, last.position, row], last.found)
                last = read
            if last is not None:
                yield Read([at + 1, None, 0], last.found)
            place, before = None, 0

    def release(self, start: Any, stop: Any) -> None:
        """Lets go of the files from one position to another, when all that was read up to it is kept."""
        first, last = (position[0] if position else 0 for position in (start, stop))
        for part in self.parts[first:last]:
            part.done()
