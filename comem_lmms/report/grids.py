"""The main table in, the plainer tables below it out: text columns first, then numbers, for every format to lay out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from comem_lmms.report.costs import columns_for
from comem_lmms.report.leaderboard import Table
from comem_lmms.report.ranks import Ranks
from comem_lmms.report.table import number

HEAD = ("method", "model", "retrieval")
_SUPPORT = (
    "Supported: an accepted answer stands in title or text of an item that the question was given. Percent of all "
    "questions, and right, missed and wrong of the supported or unsupported ones. Without retrieval: by what the other "
    "methods were given."
)


class Grid(NamedTuple):
    """A table.

    Attributes:
        title: what stands above it.
        texts, numbers: the heads of its columns.
        lines: the texts of each, and its numbers with how they are shown.
        note: what is to be said of it.
    """

    title: str
    texts: Sequence[str]
    numbers: Sequence[str]
    lines: Sequence[tuple[Sequence[str], Sequence[tuple[float | None, str]]]]
    note: str = ""


def grids(table: Table) -> list[Grid]:
    """What is shown below the main table."""
    return [_costs(table), *([_support(table, table.support)] if table.support else [])]


def labels(table: Table) -> list[tuple[str, str, str]]:
    """Method, model and retrieval of each line."""
    return [(line.name, line.model, line.knowledge) for line in table.lines]


def _costs(table: Table) -> Grid:
    columns = columns_for(table.costs)
    lines = []
    for names, cost in zip(labels(table), table.costs, strict=True):
        values = [column.value(cost) for column in columns]
        shown = [number(value, column.digits) for value, column in zip(values, columns, strict=True)]
        lines.append((names, list(zip(values, shown, strict=True))))
    return Grid("Costs of a question", HEAD, [column.name for column in columns], lines)


def _support(table: Table, support: Mapping[tuple[int, str], Ranks]) -> Grid:
    lines = []
    for (place, task), ranks in sorted(support.items(), key=lambda one: one[0][0]):
        supported, unsupported = ranks.supported, ranks.unsupported
        shares = [
            (ranks.questions, None),
            (supported.questions, ranks.questions),
            (supported.right, supported.questions),
            (supported.questions - supported.right, supported.questions),
            (unsupported.questions, ranks.questions),
            (unsupported.right, unsupported.questions),
            (unsupported.questions - unsupported.right, unsupported.questions),
        ]
        lines.append(((*labels(table)[place], task), [(count, _share(count, of)) for count, of in shares]))
    told = [_SUPPORT]
    if by_entity := sorted({task for (_, task), ranks in support.items() if ranks.measure == "entity"}):
        told.append(f"Of {', '.join(by_entity)} it is the page of the entity, which is the answer.")
    if left_out := sum(ranks.left_out for ranks in support.values()):
        told.append(
            f"Not counted: {left_out} answers to questions that tell no answer, or without a log of their items."
        )
    return Grid(
        "Support: was the answer in what was retrieved, and was it given?",
        (*HEAD, "benchmark"),
        ("questions", "supported", "right", "missed", "unsupported", "right without", "wrong without"),
        lines,
        " ".join(told),
    )


def _share(count: int, of: int | None) -> str:
    return f"{count} ({100 * count / of:.1f} %)" if of else str(count)
