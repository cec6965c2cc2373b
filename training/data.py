"""Training data: a folder of samples and the knowledge base they were made with in, chats, answers and items out.

The folder holds a ``datasets`` table with the columns of `COLUMNS` and a ``manifest.json`` that names the knowledge
base. Samples that cannot be used are counted and named, never dropped silently.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from comem_lmms import fingerprints
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json
from comem_lmms.images import IMAGE_ERRORS, open_image, strictly
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.prompts import MAX_ITEM_CHARACTERS
from comem_lmms.records import KnowledgeItem
from comem_lmms.vlm import Chat

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
COLUMNS = ("image", "prompt", "answer", "item_ids", "task", "document", "language")


class Sample(NamedTuple):
    """A question as it is trained on.

    Attributes:
        name: what warnings call it.
        chat: the question, one user turn.
        answer: what the VLM is to say.
        rows: of its items in the knowledge base, best first.
    """

    name: str
    chat: Chat
    answer: str
    rows: Sequence[int]


class TrainingData:
    """The samples of a folder; `open` one.

    Attributes:
        manifest: what the folder says of its making.
        numbers: of the samples that can be used, ascending.
        lost: why others cannot, by name.
    """

    def __init__(
        self, folder: Path, table: datasets.Dataset, manifest: dict[str, Any], knowledge: KnowledgeBase, top_k: int
    ) -> None:
        self.folder, self.manifest, self.knowledge = folder, manifest, knowledge
        self.table = table.cast_column("image", datasets.Image(decode=False))
        self.lost: dict[str, str] = {}
        self._cells = table.remove_columns("image").to_dict()
        self._rows = [self._find(number, ids[:top_k]) for number, ids in enumerate(self._cells["item_ids"])]
        self.numbers = [number for number, rows in enumerate(self._rows) if rows is not None]
        if not self.numbers:
            raise UserError(
                f"{folder} holds no sample that can be trained on ({len(table)} samples, {len(self.lost)} of them with "
                "items that the knowledge base lacks); make the data again"
            )
        if self.lost:
            log.warning(
                "%s of %s samples are left out, since the knowledge base lacks their items; the first is %s",
                len(self.lost),
                len(table),
                next(iter(self.lost)),
            )

    @classmethod
    def open(cls, folder: str | Path, knowledge: KnowledgeBase, top_k: int) -> "TrainingData":
        """The data of a folder.

        Args:
            knowledge: the base the data was made with.
            top_k: items of a sample at most, the best ones.

        Raises:
            UserError: the folder holds no training data, none that can be used, or data of another knowledge base.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise UserError(f"no training data at {folder}: {MANIFEST} is missing; `comem-lmms training-data` makes it")
        manifest = read_json(folder / MANIFEST)
        try:
            made_with = str(manifest["knowledge"]["fingerprint"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / MANIFEST} names no knowledge base; make the data again") from error
        if made_with != knowledge.fingerprint:
            raise UserError(
                f"{folder} was made with another knowledge base ({manifest['knowledge'].get('folder')}, fingerprint "
                f"{made_with[:12]}) than {knowledge.folder} ({knowledge.fingerprint[:12]}); give knowledge= that one"
            )
        return cls(folder, _table(folder), manifest, knowledge, top_k)

    @property
    def fingerprint(self) -> str:
        """Of all samples and the manifest."""
        return fingerprints.fingerprint([*self.folder.glob("*.arrow"), self.folder / MANIFEST])

    def name(self, number: int) -> str:
        """What warnings call a sample."""
        task, document, language = (self._cells[column][number] for column in ("task", "document", "language"))
        return f"sample {number} (document {document} of {task}, {language})"

    def length(self, number: int) -> int:
        """Characters of prompt, answer and items, to put samples of like length together."""
        texts = [sum(map(len, self.knowledge.words(row))) for row in self._rows[number] or ()]
        return (
            len(self._cells["prompt"][number])
            + len(self._cells["answer"][number])
            + sum(min(length, MAX_ITEM_CHARACTERS) for length in texts)
        )

    def split(self, held_out: int, seed: int) -> tuple[list[int], list[int]]:
        """Numbers to train on and at most ``held_out`` to measure on.

        All samples of a document, translations too, are on one side. At least half are trained on.
        """
        held_out = min(held_out, len(self.numbers) // 2)
        held: list[int] = []
        for document in self._documents(self.numbers, seed):
            if len(held) + len(document) <= held_out:
                held += document
        return sorted(set(self.numbers) - set(held)), sorted(held)

    def share(self, numbers: Sequence[int], fraction: float, seed: int) -> list[int]:
        """Of some numbers a share, rounded up to whole documents; a smaller share is part of a larger one."""
        kept: list[int] = []
        for document in self._documents(numbers, seed):
            if len(kept) < fraction * len(numbers):
                kept += document
        return sorted(kept)

    def __getitem__(self, number: int) -> Sample:
        """A sample, its image decoded.

        Raises:
            UserError: the image cannot be read.
        """
        cell = self.table[number]["image"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": self._cells["prompt"][number]}]
        if cell is not None:
            try:
                with strictly():
                    parts.insert(0, {"type": "image", "url": open_image(cell["bytes"] or cell["path"])})
            except IMAGE_ERRORS as error:
                raise UserError(f"its image cannot be read ({one_line(error)})") from error
        chat = [{"role": "user", "content": parts}]
        return Sample(self.name(number), chat, self._cells["answer"][number], self._rows[number] or ())

    def items(self, rows: Sequence[int]) -> Iterator[KnowledgeItem]:
        """The items of rows, their images decoded.

        Raises:
            UserError: an image cannot be read.
        """
        return (self.knowledge[row] for row in rows)

    def _documents(self, numbers: Sequence[int], seed: int) -> list[list[int]]:
        """The numbers by document, in an order that the seed fixes."""
        documents: dict[tuple[str, int], list[int]] = {}
        for number in numbers:
            key = (self._cells["task"][number], self._cells["document"][number])
            documents.setdefault(key, []).append(number)
        found = list(documents.values())
        return [found[place] for place in np.random.default_rng(seed).permutation(len(found))]

    def _find(self, number: int, ids: Sequence[str]) -> list[int] | None:
        """The rows of a sample's items; None, and noted, if one is gone."""
        rows = [self.knowledge.find(id_) for id_ in ids]
        if None in rows:
            self.lost[self.name(number)] = f"the knowledge base has no item {ids[rows.index(None)]!r}"
            return None
        return [row for row in rows if row is not None]


def _table(folder: Path) -> datasets.Dataset:
    empty = UserError(f"{folder} holds no samples; make the data again")
    try:
        table = datasets.load_from_disk(str(folder))
    except IndexError as error:  # what datasets makes of a table without rows
        raise empty from error
    except Exception as error:  # datasets and pyarrow raise a dozen kinds
        raise UserError(f"cannot read the training data in {folder} ({one_line(error)}); make it again") from error
    if not isinstance(table, datasets.Dataset):
        raise UserError(f"{folder} holds splits ({', '.join(table)}), not one table; make the data again")
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise UserError(f"the training data in {folder} has no column {missing[0]!r}; make it again")
    if not len(table):
        raise empty
    return table.select_columns(list(COLUMNS))
