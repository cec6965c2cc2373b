"""The index of titles, in memory or in a folder: titles in, the entity of a text out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from comem_lmms.errors import UserError
from comem_lmms.files import new_folder
from comem_lmms.linking.postings import Postings, PostingsBuilder
from comem_lmms.linking.saved import Parts, load, save
from comem_lmms.linking.searching import search
from comem_lmms.linking.titles import Entity, TextsBuilder, read_titles
from comem_lmms.linking.wordpiece import WordPiece, default_vocabulary

Tokenise = Callable[[str], Sequence[int]]

BATCH = 1 << 15  # titles that are Python objects at a time


class Linked(NamedTuple):
    """An entity that a text was linked to; a higher score is better."""

    id: str
    title: str
    score: float


class TitleIndex:
    """Titles and their Wikidata ids, searchable by BM25. It never changes, so any number of threads may use one."""

    def __init__(self, postings: Postings, ids: Sequence[str], titles: Sequence[str], tokenise: Tokenise) -> None:
        self.postings, self._ids, self._titles, self._tokenise = postings, ids, titles, tokenise

    def __len__(self) -> int:
        return len(self._titles)

    def link(self, text: str) -> Linked | None:
        """The entity with the best title, None for a text that shares no token with any."""
        return next(iter(self.search(text, 1)), None)

    def search(self, text: str, k: int = 5) -> list[Linked]:
        """At most ``k`` titles that share a token with the text, best first; of equal ones the earlier in the corpus.

        OVEN's scripts order equal ones arbitrarily, and so link an empty text to any title; here it has none.

        Raises:
            UserError: ``k`` is below 1.
        """
        if k < 1:
            raise UserError(f"{k} titles were asked for; ask for one at least")
        rows, scores = search(self.postings, self._tokenise(text), k)
        return [
            Linked(self._ids[row], self._titles[row], score)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    @classmethod
    def of(cls, entities: Iterable[Entity], vocabulary: Path) -> "TitleIndex":
        """In memory, over entities in their order, tokenised with a BERT vocabulary file (vocab.txt).

        Raises:
            UserError: there is no entity, or the vocabulary is missing or none.
        """
        tokenise = WordPiece(vocabulary)
        return cls(*_gather(entities, tokenise), tokenise)

    @classmethod
    def build(cls, file: Path, folder: Path, vocabulary: Path | None = None) -> "TitleIndex":
        """Over the titles of a file (see ``read_titles``), written to a new folder, whole or not at all, and opened.

        Args:
            vocabulary: a BERT vocabulary file, by default that of bert-base-uncased.

        Raises:
            UserError: the folder is there already, or the file or the vocabulary is missing or not as it must be.
        """
        with new_folder(folder) as partial:
            vocabulary = vocabulary or default_vocabulary()
            save(partial, _gather(read_titles(file), WordPiece(vocabulary)), file, vocabulary)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "TitleIndex":
        """What `build` wrote, mapped into memory: processes share it, and only what is used is read.

        Raises:
            UserError: there is no index, it is of another format, or a file is missing, cut off or of another index.
        """
        parts, vocabulary = load(Path(folder))
        return cls(*parts, WordPiece(vocabulary))


@cache
def shared(folder: str) -> TitleIndex:
    """The index in a folder, opened once a process: for functions that lmms-eval calls for each answer."""
    return TitleIndex.open(folder)


def _gather(entities: Iterable[Entity], tokenise: WordPiece) -> Parts:
    postings, ids, titles = PostingsBuilder(tokenise.n_tokens), TextsBuilder(), TextsBuilder()
    for batch in _batches(entities):
        ids.add([entity.id for entity in batch])
        titles.add([entity.title for entity in batch])
        postings.add(tokenise.all([entity.title for entity in batch]))
    parts = Parts(postings.finish(), ids.finish(), titles.finish())
    if not len(parts.titles):
        raise UserError("there is no title to index; give at least one")
    return parts


def _batches(entities: Iterable[Entity]) -> Iterator[list[Entity]]:
    rest = iter(entities)
    while batch := list(islice(rest, BATCH)):
        yield batch
