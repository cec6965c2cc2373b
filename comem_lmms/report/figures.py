"""The main table in, what its plots show out, and which are left out and why; `drawing` makes pictures of it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from comem_lmms.report.columns import AVERAGE, Column
from comem_lmms.report.costs import Cost
from comem_lmms.report.leaderboard import Cell, Table
from comem_lmms.report.lines import HOW, Line
from comem_lmms.report.provenance import extent
from comem_lmms.report.ranks import Ranks, count_ranks, item_ranks
from comem_lmms.scoring.aggregate import estimate

# Of the paper's InfoSeek rows, which are asked in each; CVQA's tasks and parts are named by their languages.
_INFOSEEK = {
    "paper": "English",
    "es": "Spanish",
    "pt": "Portuguese",
    "zh": "Chinese",
    "ru": "Russian",
    "bg": "Bulgarian",
}
_TOTALS = ("micro", "translated")  # parts of a metric's name that are of all questions
_RANKS = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, 20), (21, 10**9))
_SOUGHT = {"item": "the right item", "entity": "the entity's page", "answer": "the first item with the answer"}


class Point(NamedTuple):
    """A result with its standard error, and what is written at it."""

    x: float
    y: float
    error: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one method.

    Attributes:
        place: of its first line in the table, by which it looks the same in all plots.
        is_control: whether it was given the right items, or wrong ones, on purpose.
        is_joined: whether a line goes through its points.
        is_level: whether it is one point that holds for every x.
    """

    label: str
    place: int
    is_control: bool
    points: Sequence[Point]
    is_joined: bool = False
    is_level: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        name: of its files.
        x, y: what the axes show.
        kind: how it is drawn: "numbers" along x, or "categories" along x, or "rows", which are categories along y.
        categories: which the x of points are places in.
    """

    name: str
    title: str
    x: str
    y: str
    kind: str
    series: Sequence[Series]
    categories: Sequence[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Figure":
        """What `as_json` made."""
        series = [Series(**{**one, "points": [Point(*point) for point in one["points"]]}) for one in told["series"]]
        return cls(**{**told, "series": series})


class Figures(NamedTuple):
    """What can be drawn, and of what cannot why."""

    drawn: list[Figure]
    left_out: list[str]


def figures(table: Table) -> Figures:
    """All plots that the results hold enough for."""
    names = _labels(table.lines)
    found = Figures([], [])
    for task, others in table.others.items():
        for place in sorted(others):
            asked = extent(table.lines[place].results[task].run)
            found.left_out.append(f"{_with_k(table, names, place)} on {task}: {asked}, other than most lines")
    table = _of_the_same_documents(table)
    _costs(table, names, found)
    _by_k(table, names, found)
    _by_language(table, names, found)
    _by_part(table, names, found)
    _by_rank(table, names, found)
    return found


def _of_the_same_documents(table: Table) -> Table:
    """Without the results that the table compares with nothing."""
    cells = [
        [
            Cell() if place in table.others.get(column.task, ()) else cell
            for column, cell in zip(table.columns, of_line, strict=True)
        ]
        for place, of_line in enumerate(table.cells)
    ]
    return replace(table, cells=cells)


def _labels(lines: Sequence[Line]) -> list[str]:
    """What tells lines apart besides k."""
    models = {line.model for line in lines}
    retrievals = {line.retrieval for line in lines} - {"none"}
    return [
        ", ".join(
            [
                line.name,
                *([line.model] if len(models) > 1 else []),
                *([line.retrieval] if len(retrievals) > 1 and line.retrieval != "none" else []),
            ]
        )
        for line in lines
    ]


def _headline(table: Table) -> int | None:
    """The column that stands for all: the average, or the only task."""
    wholes = [place for place, column in enumerate(table.columns) if not column.split]
    return wholes[0] if len(wholes) == 1 or table.columns[wholes[0]].task == AVERAGE else None


def _y(column: Column) -> str:
    name = f"{column.name}, {column.metric}" if column.metric else column.name
    return name + (", %" if column.scale == 100 else "")


def _groups(lines: Sequence[Line]) -> list[list[int]]:
    """Places of lines that differ in k alone, by k."""
    groups: dict[Any, list[int]] = {}
    for place, line in enumerate(lines):
        run = next(iter(line.results.values())).run
        same = tuple(sorted((name, value) for name, value in run.arguments.items() if name not in ("top_k", *HOW)))
        groups.setdefault((line.method, line.retrieval, same, tuple(run.extent.items())), []).append(place)
    return [sorted(group, key=lambda place: lines[place].k or 0) for group in groups.values()]


def _costs(table: Table, names: Sequence[str], found: Figures) -> None:
    kinds: list[tuple[str, str, Callable[[Cost], float | None]]] = [
        ("accuracy-tokens", "prompt tokens and memory vectors of a question", _read),
        ("accuracy-seconds", "seconds of a question", lambda cost: cost.seconds),
    ]
    headline = _headline(table)
    for name, what, value in kinds:
        if headline is None:
            found.left_out.append(f"{name}: there is no average over the benchmarks")
            continue
        series = []
        for group in _groups(table.lines):
            points = [
                _point(x, table.cells[place][headline], f"k={table.lines[place].k}" if len(group) > 1 else "")
                for place in group
                if (x := value(table.costs[place])) is not None and table.cells[place][headline].value is not None
            ]
            if points:
                is_curve = len(group) > 1
                series.append(_series(table, names, group[0], points, with_k=not is_curve, is_joined=is_curve))
        if not series:
            found.left_out.append(f"{name}: no answer tells its {what.partition(' of ')[0]} (--log_samples)")
            continue
        found.drawn.append(Figure(name, "", what, _y(table.columns[headline]), "numbers", series))


def _read(cost: Cost) -> float | None:
    return None if cost.prompt_tokens is None else cost.prompt_tokens + (cost.memory_vectors or 0)


def _by_k(table: Table, names: Sequence[str], found: Figures) -> None:
    headline = _headline(table)
    if headline is None:
        found.left_out.append("accuracy-k: there is no average over the benchmarks")
        return
    values = [cells[headline] for cells in table.cells]
    groups = [[place for place in group if values[place].value is not None] for group in _groups(table.lines)]
    several = [group for group in groups if len({table.lines[place].k for place in group}) > 1]
    if not several:
        found.left_out.append("accuracy-k: no two lines differ in k alone")
        return
    series = [
        _series(
            table,
            names,
            group[0],
            [_point(table.lines[place].k or 0, values[place]) for place in group],
            is_joined=True,
        )
        for group in several
    ]
    models = {table.lines[place].model for group in several for place in group}
    alone = [place for place, line in enumerate(table.lines) if line.retrieval == "none" and line.model in models]
    levels = [
        _series(table, names, place, [_point(0, values[place])], is_level=True)
        for place in alone
        if values[place].value is not None
    ]
    found.drawn.append(
        Figure("accuracy-k", "", "items a question, k", _y(table.columns[headline]), "numbers", [*levels, *series])
    )


def _by_language(table: Table, names: Sequence[str], found: Figures) -> None:
    families: dict[str, dict[str, int]] = {}
    for place, column in enumerate(table.columns):
        if (named := _language(column)) is not None:
            family, language = named
            families.setdefault(family, {})[language] = place
    several = {family: places for family, places in families.items() if len(places) > 1}
    if not several:
        found.left_out.append("language: no benchmark was asked in two languages")
    order = list(_INFOSEEK.values())
    for family, places in several.items():
        if family == "infoseek":  # as the paper has them, English first
            places = dict(sorted(places.items(), key=lambda one: order.index(one[0])))
        found.drawn.append(_rows(table, names, f"language-{family}", family, places))


def _language(column: Column) -> tuple[str, str] | None:
    """The results that it belongs with, and its language among them."""
    family, _, rest = column.task.partition("_")
    if family == "infoseek" and not column.split and rest in _INFOSEEK:
        return family, _INFOSEEK[rest]
    if family == "cvqa" and (subset := column.split or rest) not in ("", "all", *_TOTALS):
        # A part of a task is another result than the task of that subset alone, and not all lines have both.
        return column.task if column.split else "cvqa_subsets", subset.replace("_", " ").title()
    return None


def _by_part(table: Table, names: Sequence[str], found: Figures) -> None:
    by_task: dict[str, dict[str, int]] = {}
    for place, column in enumerate(table.columns):
        if column.split and column.split not in _TOTALS and _language(column) is None:
            by_task.setdefault(column.task, {})[column.split] = place
    drawn = False
    for task, places in by_task.items():
        own = {split: place for split, place in places.items() if not _within(split, (*places, *_TOTALS))}
        if len(own) > 1:
            drawn = True
            labels = {split.replace("_", " "): place for split, place in own.items()}
            found.drawn.append(_rows(table, names, f"parts-{_file(task)}", task, labels))
    if not drawn:
        found.left_out.append("parts: no benchmark states parts of its result, such as types of question")


def _within(split: str, others: Sequence[str]) -> bool:
    return any(split.startswith(f"{other}_") for other in others)


def _rows(table: Table, names: Sequence[str], name: str, title: str, places: Mapping[str, int]) -> Figure:
    series = []
    for place, cells in enumerate(table.cells):
        points = [
            _point(row, cells[column]) for row, column in enumerate(places.values()) if cells[column].value is not None
        ]
        if points:
            series.append(_series(table, names, place, points, with_k=True))
    first = table.columns[next(iter(places.values()))]
    metric = first.metric.removesuffix(f"_{first.split}") if first.split else first.metric
    x = metric + (", %" if first.scale == 100 else "")
    return Figure(name, title, x, "", "rows", series, list(places))


def _by_rank(table: Table, names: Sequence[str], found: Figures) -> None:
    for column in table.columns:
        if not column.says_what_is_right:
            continue
        name = f"rank-{_file(column.task)}"
        ranks = dict(_ranks(table, column))
        bins = [one for one in (*_RANKS, None) if any(_count(own, one) for own in ranks.values())]
        if not ranks:
            found.left_out.append(f"{name}: no answer tells the rank of a right item; --support may find one")
        elif len(bins) < 2:
            found.left_out.append(f"{name}: all right items have the same rank")
        else:
            measures = dict.fromkeys(_SOUGHT[own.measure] for own in ranks.values())
            series = [
                _series(table, names, place, points, with_k=True)
                for place, own in ranks.items()
                if (points := list(_shares(own, bins)))
            ]
            x = f"rank of {' or '.join(measures)}"
            labels = ["not found" if one is None else _range(*one) for one in bins]
            found.drawn.append(Figure(name, column.task, x, "answered rightly, %", "categories", series, labels))


def _ranks(table: Table, column: Column) -> Iterator[tuple[int, Ranks]]:
    """Of the right item where documents tell it, otherwise of what `find_support` looked for."""
    for place, line in enumerate(table.lines):
        if (result := line.results.get(column.task)) is None or place in table.others[column.task]:
            continue
        if ranks := item_ranks(result.answers.told):
            yield place, count_ranks("item", ranks, result, column.metric)
        elif (place, column.task) in (table.support or {}) and line.retrieval != "none":
            yield place, (table.support or {})[place, column.task]


def _count(ranks: Ranks, one: tuple[int, int] | None) -> list[int]:
    """Questions and right answers in a bin of ranks, empty if there are none."""
    inside = [
        count
        for rank, count in ranks.counts.items()
        if (rank is None and one is None) or (rank is not None and one is not None and one[0] <= rank <= one[1])
    ]
    return [sum(count.questions for count in inside), sum(count.right for count in inside)] if inside else []


def _shares(ranks: Ranks, bins: Sequence[tuple[int, int] | None]) -> Iterator[Point]:
    for place, one in enumerate(bins):
        if counted := _count(ranks, one):
            questions, right = counted
            value, stderr = estimate([1.0] * right + [0.0] * (questions - right))
            assert value is not None
            yield Point(place, 100 * value, None if stderr is None else 100 * stderr)


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}+" if high == _RANKS[-1][1] else f"{low}-{high}"


def _series(
    table: Table, names: Sequence[str], place: int, points: Sequence[Point], with_k: bool = False, **how: bool
) -> Series:
    label = _with_k(table, names, place) if with_k else names[place]
    return Series(label, place, table.lines[place].is_control, points, **how)


def _with_k(table: Table, names: Sequence[str], place: int) -> str:
    several = len({one.k for one in table.lines if one.k is not None}) > 1
    k = table.lines[place].k
    return names[place] + (f", k={k}" if several and k is not None else "")


def _point(x: float, cell: Cell, text: str = "") -> Point:
    assert cell.value is not None
    return Point(x, cell.value, cell.stderr, text)


def _file(task: str) -> str:
    return re.sub(r"[^\w.-]", "_", task)
