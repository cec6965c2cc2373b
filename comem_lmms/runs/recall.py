"""Is retrieval any good: a run and its knowledge base in, recall@k by task, split and language out.

Three measures, each of the documents that tell what it needs:

- ``item``: the document's right item is among the first k;
- ``entity``: an item whose title is that of the document's entity, up to case and underscores, is among them;
- ``answer``: one of the accepted answers stands in title or text of one of them, as whole words, both normalised as the
  task's official scorer normalises.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.knowledge.rows import same_title
from comem_lmms.runs.facts import normaliser
from comem_lmms.runs.run import Run
from comem_lmms.scoring.aggregate import Estimate, estimate

DEPTHS = (1, 5, 10, 20)
MEASURES = ("item", "entity", "answer")
NOWHERE = np.iinfo(np.int64).max
# Scripts that put no spaces between words: there a word has no bounds to look for.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_LAST = re.compile(rf"[^\W{_UNSPACED}]\Z")
_FIRST = re.compile(rf"[^\W{_UNSPACED}]")


class Recall(NamedTuple):
    """How often what was looked for is among the first k.

    Attributes:
        task, measure: as above.
        part: which documents: "all", or "split" or "language" and its name.
        questions: documents that tell what they look for.
        at: the share of them by k, with its standard error.
        first: how many of them find it first at a rank, from 1.
    """

    task: str
    measure: str
    part: str
    questions: int
    at: dict[int, Estimate]
    first: dict[int, int]


def recall(run: Run, knowledge: KnowledgeBase | None = None) -> list[Recall]:
    """All measures that the documents tell enough for; those by what items say need the knowledge base.

    Raises:
        UserError: the base is another than that of the run, or no document tells anything.
    """
    if knowledge is not None:
        run.check(knowledge, 0)
    documents = [
        row for batch in run.documents.batches(run.documents.columns) for row in batch.to_pylist() if row["key"]
    ]
    ranks = {"item": _item_ranks(run, documents)}
    if knowledge is not None:
        words = {task: normaliser(task, about["normalise"]) for task, about in run.manifest["tasks"].items()}
        ranks |= text_ranks(documents, lambda number: _ids(run, documents[number]), words, knowledge)
    found = [
        one
        for task in run.manifest["tasks"]
        for measure in MEASURES
        if measure in ranks
        for one in _parts(run, task, measure, documents, ranks[measure])
    ]
    if not found:
        told = "" if knowledge else " (entity and answer need --knowledge)"
        raise UserError(f"the documents of {run.folder} tell nothing that retrieval could be measured by{told}")
    return found


def looked_for(document: Mapping[str, Any], measure: str) -> Any:
    """What a measure goes by in a document; nothing if it does not tell."""
    return document[{"item": "item_id", "entity": "entity", "answer": "answers"}[measure]]


def wording(text: str, normalise: Callable[[str], str]) -> str:
    """A text normalised word by word, so that a word becomes the same in an answer and in a long text."""
    return " ".join(" ".join(map(normalise, text.split())).split())


def contains(text: str, answer: str) -> bool:
    """Whether an answer stands in a text as whole words; nothing contains an empty one."""
    start = text.find(answer) if answer else -1
    while start >= 0:
        stop = start + len(answer)
        before = _LAST.search(text, max(start - 1, 0), start) and _FIRST.match(answer)
        after = _FIRST.match(text, stop) and _LAST.search(answer)
        if not before and not after:
            return True
        start = text.find(answer, start + 1)
    return False


def text_ranks(
    documents: Sequence[Mapping[str, Any]],
    found: Callable[[int], Sequence[str]],
    normalisers: Mapping[str, Callable[[str], str]],
    knowledge: KnowledgeBase,
) -> dict[str, np.ndarray]:
    """The ranks from 0, by "entity" and "answer", of the first item that has what a document tells; else `NOWHERE`.

    Items are read in the order of the base, each once.

    Args:
        documents: with ``task``, ``entity`` and ``answers``.
        found: the ids of a document's items by its place here, best first, all of the base; asked where it is of use.
        normalisers: by task.
        knowledge: the base that was searched.
    """
    ranks = {measure: np.full(len(documents), NOWHERE) for measure in ("entity", "answer")}
    words = {task: cache(normalise) for task, normalise in normalisers.items()}
    answers = [[wording(answer, words[row["task"]]) for answer in row["answers"]] for row in documents]
    entities = [same_title(row["entity"]) if row["entity"] else None for row in documents]
    row = -1
    for row_, number, rank in _hits(documents, found, knowledge).tolist():
        if row_ != row:
            row = row_
            page, text = knowledge.words(row)
            worded: dict[Any, str] = {}
        if entities[number] == same_title(page):
            ranks["entity"][number] = min(ranks["entity"][number], rank)
        if answers[number] and rank < ranks["answer"][number]:
            normalise = words[documents[number]["task"]]
            if normalise not in worded:
                worded[normalise] = wording(f"{page} {text}", normalise)
            if any(contains(worded[normalise], answer) for answer in answers[number]):
                ranks["answer"][number] = rank
    return ranks


def _item_ranks(run: Run, documents: Sequence[dict[str, Any]]) -> np.ndarray:
    """(documents,) ranks from 0 of the right items."""
    ranks = np.full(len(documents), NOWHERE)
    for number, document in enumerate(documents):
        if document["item_id"] in (ids := _ids(run, document)):
            ranks[number] = ids.index(document["item_id"])
    return ranks


def _hits(
    documents: Sequence[Mapping[str, Any]], found: Callable[[int], Sequence[str]], knowledge: KnowledgeBase
) -> np.ndarray:
    """(hits, 3) int64: row of the base, number of the document, rank; by the rows of the base."""

    def each() -> Iterator[tuple[int, int, int]]:
        for number, document in enumerate(documents):
            if document["entity"] or document["answers"]:
                for rank, id_ in enumerate(found(number)):
                    yield _row(knowledge, id_), number, rank

    hits = np.fromiter(each(), np.dtype((np.int64, 3)))
    return hits[np.argsort(hits[:, 0], kind="stable")]


def _row(knowledge: KnowledgeBase, id_: str) -> int:
    row = knowledge.find(id_)
    assert row is not None  # the base is that of the run
    return row


def _ids(run: Run, document: Mapping[str, Any]) -> list[str]:
    row = run.row(document["key"])
    assert row is not None  # every document with a key has hits
    return run.hits[row]["ids"]


def _parts(
    run: Run, task: str, measure: str, documents: Sequence[dict[str, Any]], ranks: np.ndarray
) -> Iterator[Recall]:
    """All documents of a task, and those of each split and language if there are several."""
    own = [i for i, row in enumerate(documents) if row["task"] == task and looked_for(row, measure)]
    parts = {"all": own}
    for name in ("split", "language"):
        values = sorted({documents[i][name] for i in own if documents[i][name]})
        for value in values if len(values) > 1 else ():
            parts[f"{name} {value}"] = [i for i in own if documents[i][name] == value]
    depths = [k for k in (*DEPTHS, run.k) if k <= run.k]
    for part, chosen in parts.items():
        if chosen:
            ranked = ranks[chosen]
            at = {k: estimate((ranked < k).astype(float).tolist()) for k in depths}
            places, counts = np.unique(ranked[ranked < run.k], return_counts=True)
            first = {int(place) + 1: int(count) for place, count in zip(places, counts, strict=True)}
            yield Recall(task, measure, part, len(chosen), at, first)
