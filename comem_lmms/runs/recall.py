"""Is retrieval any good: a run and its knowledge base in, recall@k by task, split and language out.

Three measures, each of the documents that tell what it needs; one without hits counts as a miss:

- ``item``: the document's right item is among the first k;
- ``entity``: an item whose title is that of the document's entity, up to case and underscores, is among them;
- ``answer``: one of the accepted answers stands in title or text of one of them, as whole words, both normalised as the
  task's official scorer normalises.

What is not in the knowledge base cannot be found, so the first two also say how many questions' right item or page is.
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
        in_base: those of which the knowledge base has the right item or page; None for answers, and without the base.
        without_hits: those that have no hits.
        at: the share of them that find it, by k, with its standard error; None where ``in_base`` is 0.
        first: how many of them find it first at a rank, from 1.
        unjudged: why ``at`` says nothing, else empty.
    """

    task: str
    measure: str
    part: str
    questions: int
    in_base: int | None
    without_hits: int
    at: dict[int, Estimate]
    first: dict[int, int]
    unjudged: str = ""


class _Looked(NamedTuple):
    """Of one measure, by document: at which rank it was found, and whether the base has it, if that is known."""

    ranks: np.ndarray
    held: np.ndarray | None = None
    none: str = ""  # what is said where the base has it for no document


def recall(run: Run, knowledge: KnowledgeBase | None = None) -> list[Recall]:
    """All measures that the documents tell enough for; those by what items say need the knowledge base.

    Raises:
        UserError: the base is another than that of the run, no document tells anything, or the base has nothing of what
            they look for.
    """
    if knowledge is not None:
        run.check(knowledge, 0)
    documents = [
        row for batch in run.documents.batches(run.documents.columns) for row in batch.to_pylist() if row["key"]
    ]
    looked = {"item": _items(run, documents, knowledge)}
    if knowledge is not None:
        words = {task: normaliser(task, about["normalise"]) for task, about in run.manifest["tasks"].items()}
        ranks = text_ranks(documents, lambda number: _ids(run, documents[number]), words, knowledge)
        looked |= {"entity": _pages(documents, ranks["entity"], knowledge), "answer": _Looked(ranks["answer"])}
    hitless = _hitless(run)
    empty = np.array([document["key"] in hitless for document in documents], bool)
    found = [
        one
        for task in run.manifest["tasks"]
        for measure in MEASURES
        if measure in looked
        for one in _parts(run.k, task, measure, documents, looked[measure], empty)
    ]
    if not found:
        told = "" if knowledge else " (entity and answer need --knowledge)"
        raise UserError(f"the documents of {run.folder} tell nothing that retrieval could be measured by{told}")
    if all(one.unjudged for one in found):
        told = "; ".join(one.unjudged for one in found if one.part == "all")
        raise UserError(f"retrieval run {run.folder} cannot be measured: {told}; search a base that has what is right")
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


def _items(run: Run, documents: Sequence[dict[str, Any]], knowledge: KnowledgeBase | None) -> _Looked:
    """The right items, by their ids."""
    ranks = np.full(len(documents), NOWHERE)
    for number, document in enumerate(documents):
        if document["item_id"] in (ids := _ids(run, document)):
            ranks[number] = ids.index(document["item_id"])
    if knowledge is None:
        return _Looked(ranks)
    wanted = (document["item_id"] for document in documents)
    held = np.array([id_ is not None and knowledge.find(id_) is not None for id_ in wanted], bool)
    return _Looked(ranks, held, "the knowledge base has none of the right items")


def _pages(documents: Sequence[dict[str, Any]], ranks: np.ndarray, knowledge: KnowledgeBase) -> _Looked:
    """The pages of entities, by their titles."""
    entities = [same_title(document["entity"]) if document["entity"] else None for document in documents]
    if not any(entities):
        return _Looked(ranks)
    rows = knowledge.titled({"", *(title for title in entities if title)})
    held = np.array([bool(title and rows[title]) for title in entities], bool)
    is_untitled = len(rows[""]) == len(knowledge)
    return _Looked(ranks, held, f"the knowledge base has {'no titles' if is_untitled else 'none of the pages'}")


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


def _hitless(run: Run) -> set[bytes]:
    """The keys of queries for which nothing was found."""
    batches = (batch.to_pydict() for batch in run.hits.batches(["key", "ids"]))
    return {key for cells in batches for key, ids in zip(cells["key"], cells["ids"], strict=True) if not ids}


def _parts(
    most: int, task: str, measure: str, documents: Sequence[dict[str, Any]], looked: _Looked, empty: np.ndarray
) -> Iterator[Recall]:
    """All documents of a task, and those of each split and language if there are several."""
    own = [i for i, row in enumerate(documents) if row["task"] == task and looked_for(row, measure)]
    parts = {"all": own}
    for name in ("split", "language"):
        values = sorted({documents[i][name] for i in own if documents[i][name]})
        for value in values if len(values) > 1 else ():
            parts[f"{name} {value}"] = [i for i in own if documents[i][name] == value]
    for part, chosen in parts.items():
        if chosen:
            yield _recall(most, (task, measure, part), looked, chosen, int(empty[chosen].sum()))


def _recall(most: int, named: tuple[str, str, str], looked: _Looked, chosen: Sequence[int], hitless: int) -> Recall:
    """Of some documents, by their numbers, of which each was given up to ``most`` items."""
    ranks = looked.ranks[chosen]
    in_base = None if looked.held is None else int(looked.held[chosen].sum())
    depths = [k for k in (*DEPTHS, most) if k <= most]
    if in_base == 0:
        task, measure, part = named
        what = f"{task}, {measure}{'' if part == 'all' else f', {part}'}, {len(chosen)} questions: {looked.none}"
        return Recall(*named, len(chosen), 0, hitless, dict.fromkeys(depths, Estimate(None, None)), {}, what)
    at = {k: estimate((ranks < k).astype(float).tolist()) for k in depths}
    places, counts = np.unique(ranks[ranks < most], return_counts=True)
    first = {int(place) + 1: int(count) for place, count in zip(places, counts, strict=True)}
    return Recall(*named, len(chosen), in_base, hitless, at, first)
