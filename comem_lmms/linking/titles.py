"""The titles of Wikipedia: OVEN's file in, ids and titles out one by one, and many of them as a few arrays."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from comem_lmms.errors import UserError

KEYS = (("wikidata_id", "wikipedia_title"), ("id", "content"))  # of the id and the title; the second are older


class Entity(NamedTuple):
    """A Wikidata id (``Q90``) and the title of its Wikipedia page (``Paris``)."""

    id: str
    title: str


def read_titles(file: Path) -> Iterator[Entity]:
    """Each line of a JSON lines file such as OVEN's ``Wiki6M_ver_1_0_title_only.jsonl``, with a progress bar.

    Raises:
        UserError: there is no such file, or a line is not an object with an id and a title.
    """
    if not file.is_file():
        raise UserError(f"there is no file of titles {file}; take OVEN's Wiki6M_ver_1_0_title_only.jsonl")
    size = file.stat().st_size
    with file.open("rb") as lines, tqdm(total=size, desc="Indexing titles", unit="B", unit_scale=True) as progress:
        for number, line in enumerate(lines, 1):
            if not line.isspace():
                yield _entity(line, f"{file}, line {number}")
            progress.update(len(line))


def _entity(line: bytes, place: str) -> Entity:
    try:
        row = json.loads(line)
    except ValueError as error:  # of JSON or of UTF-8
        raise UserError(f"{place} is not JSON ({error}); is the file whole, and one object a line?") from error
    for keys in KEYS:
        if isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys):
            return Entity(*(row[key] for key in keys))
    known = " or ".join(f"{id_!r} and {title!r}" for id_, title in KEYS)
    found = sorted(row) if isinstance(row, dict) else f"a {type(row).__name__}"
    raise UserError(f"{place} holds {found}, not an object with the texts {known}; rename the keys")


class Texts(Sequence[str]):
    """Texts as one run of UTF-8, without a Python object for each.

    Attributes:
        offsets: (n + 1,) int64; text ``i`` is ``letters[offsets[i]:offsets[i + 1]]``.
        letters: (n_bytes,) uint8.
    """

    def __init__(self, offsets: np.ndarray, letters: np.ndarray) -> None:
        self.offsets, self.letters = offsets, letters

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:  # type: ignore[override]  # no slices
        return self.letters[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()


class TextsBuilder:
    """Takes texts some at a time."""

    def __init__(self) -> None:
        self._lengths: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._letters: list[bytes] = []

    def add(self, texts: Sequence[str]) -> None:
        """The next texts."""
        encoded = [text.encode("utf-8", "replace") for text in texts]  # half of a surrogate pair is no character
        self._lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        self._letters.append(b"".join(encoded))

    def finish(self) -> Texts:
        """All texts that were added, in their order."""
        return Texts(np.cumsum(np.concatenate(self._lengths)), np.frombuffer(b"".join(self._letters), np.uint8))
