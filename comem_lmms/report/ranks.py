"""Where what a question needs was among its items, and whether it was answered rightly: lines in, counts by rank out.

Right is a score of a half or more, for those that are not 0 or 1.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from comem_lmms.report.lines import Result
from comem_lmms.report.scored import points

RIGHT = 0.5


class Count(NamedTuple):
    """Questions, and how many of them were answered rightly."""

    right: int
    questions: int


class Ranks(NamedTuple):
    """Questions of one task by where what they need was first among their items.

    Attributes:
        measure: what was looked for, as `comem_lmms.runs.recall` has it: "item", "entity" or "answer".
        counts: by rank from 1; None for those that did not get it.
        left_out: questions that do not tell what they need, or what they were given, or have no score.
    """

    measure: str
    counts: Mapping[int | None, Count]
    left_out: int

    @property
    def questions(self) -> int:
        """That are counted."""
        return sum(count.questions for count in self.counts.values())

    @property
    def supported(self) -> Count:
        """Questions that were given what they need."""
        found = [count for rank, count in self.counts.items() if rank is not None]
        return Count(sum(count.right for count in found), sum(count.questions for count in found))

    @property
    def unsupported(self) -> Count:
        """Questions that were not."""
        return self.counts.get(None, Count(0, 0))


def count_ranks(measure: str, ranks: Mapping[int, int | None], result: Result, metric: str) -> Ranks:
    """Counts answers.

    Args:
        ranks: from 1, by document, of those that tell.
        metric: the score of which says what is right.
    """
    counts: dict[int | None, Count] = {}
    scores = scores_of(result, metric)
    for number in ranks.keys() & scores.keys():
        right, questions = counts.get(ranks[number], (0, 0))
        counts[ranks[number]] = Count(right + (scores[number] >= RIGHT), questions + 1)
    ordered = sorted(counts.items(), key=lambda one: (one[0] is None, one[0] or 0))
    known = sum(count.questions for count in counts.values())
    return Ranks(measure, dict(ordered), result.run.questions - known)


def item_ranks(told: Mapping[int, Mapping[str, Any]]) -> dict[int, int | None]:
    """The ranks of right items, by what the log says of documents that tell theirs."""
    return {
        number: 1 + usage["retrieved"].index(usage["gold"]) if usage["gold"] in usage["retrieved"] else None
        for number, usage in told.items()
        if usage.get("gold") is not None and usage.get("retrieved")
    }


def scores_of(result: Result, metric: str) -> dict[int, float]:
    """By document, of those that have one."""
    found = {number: points(item) for number, item in result.answers.items[metric].items()}
    return {number: score for number, score in found.items() if score is not None}
