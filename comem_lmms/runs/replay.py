"""The retriever that looks up: queries in, the hits that a run holds for them out. No model and no index is loaded."""

import logging
from collections.abc import Iterable, Iterator

from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.queries import check, key_of
from comem_lmms.records import Hit, Query
from comem_lmms.runs.run import Run

log = logging.getLogger(__name__)


class Replay:
    """A `Retriever` over a run.

    Args:
        run: what was found.
        knowledge: the base that was searched.
        top_k: what will be asked for, to be checked at once.

    Raises:
        UserError: the run is of another base, or has not ``top_k`` hits a query.
    """

    def __init__(self, run: Run, knowledge: KnowledgeBase, top_k: int = 0) -> None:
        run.check(knowledge, top_k)
        self.run, self.knowledge = run, knowledge
        self.kind, self.by, self.fingerprint = run.kind, run.by, run.fingerprint

    def search(self, queries: Iterable[Query], k: int) -> Iterator[list[Hit]]:
        """The hits of each query, in order; fewer than ``k`` where the run has fewer, which is said at the end.

        Raises:
            UserError: a query lacks what was searched with or is not in the run, or ``k`` is more than the run has.
        """
        self.run.check(self.knowledge, k)
        asked = short = none = 0
        for query in queries:
            hits = self._hits(query, k)
            asked, short, none = asked + 1, short + (len(hits) < k), none + (not hits)
            yield hits
        if short:
            told = "%s of %s questions have fewer than %s hits in %s, %s of them none"
            log.warning(told, short, asked, k, self.run.folder, none)

    def _hits(self, query: Query, k: int) -> list[Hit]:
        key = key_of(check(query, self.run.by), self.kind, self.run.by, self.run.right)
        row = None if key is None else self.run.row(key)
        if row is None:
            tasks = ", ".join(self.run.manifest["tasks"])
            raise UserError(
                f"{query.name} is not in retrieval run {self.run.folder} (of {tasks}); make one with "
                "`comem-lmms retrieve` for that task, without --limit, or give retrieval=clip"
            )
        cells = self.run.hits[row]
        return [
            Hit(id_, self._row(id_), score) for id_, score in zip(cells["ids"][:k], cells["scores"][:k], strict=True)
        ]

    def _row(self, id_: str) -> int:
        row = self.knowledge.find(id_)
        if row is None:  # the fingerprint of the base covers its ids
            raise UserError(
                f"retrieval run {self.run.folder} has item {id_!r}, the knowledge base has not; make it again"
            )
        return row
