"""Runs in, the main table out: a line for each method and model, a column for each benchmark and its splits.

Which of two results is better is decided by the same questions (`statistics.compare`); the best of a column is bold,
and with it all that are not significantly worse after Holm's correction over the column.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from comem_lmms.errors import UserError
from comem_lmms.report.columns import AVERAGE, Column, ask_different_questions, columns_of
from comem_lmms.report.comparable import compare_runs
from comem_lmms.report.costs import Cost, cost
from comem_lmms.report.lines import Line, Result, name_lines, newest
from comem_lmms.report.paper import Paper
from comem_lmms.report.ranks import Ranks
from comem_lmms.report.reading import Evaluation, Folders, evaluations, read_answers, result_files
from comem_lmms.report.scored import sample_of
from comem_lmms.report.statistics import Difference, Sample, average, compare, holm
from comem_lmms.scoring.aggregate import Estimate, macro_estimate

SIGNIFICANT = 0.05
NOTHING = Estimate(None, None)


class Distance(NamedTuple):
    """How far a result is from the baseline's; ``p`` is not corrected. Without answers there is only the value."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass
class Cell:
    """A result in percent, or as it is in a column that is not in percent.

    Attributes:
        value, stderr: None where there is none.
        best: whether it is the best of its column or not significantly worse.
        marks: of notes on this result.
        difference: to the baseline.
        paper: what the paper states.
        other_documents: whether other documents were asked than in most lines.
    """

    value: float | None = None
    stderr: float | None = None
    best: bool = False
    marks: list[str] = field(default_factory=list)
    difference: Distance | None = None
    paper: float | None = None
    other_documents: bool = False


@dataclass(frozen=True)
class Table:
    """The main table.

    Attributes:
        columns: the average, if there is one, comes first.
        lines, cells, costs: line by line; cells[line][column].
        notes: by mark.
        remarks: on the table as a whole.
        baseline: the method that differences are to.
        older: runs that newer ones replace.
        others: by task, the places of lines that were asked other documents than most, which are compared with nothing.
        support: by the place of a line and the task, whether what was retrieved held the answer; None if not asked for.
    """

    columns: Sequence[Column]
    lines: Sequence[Line]
    cells: Sequence[Sequence[Cell]]
    costs: Sequence[Cost]
    notes: Mapping[str, str]
    remarks: Sequence[str]
    baseline: str | None
    paper: Paper | None
    older: Sequence[Evaluation]
    others: Mapping[str, set[int]]
    support: Mapping[tuple[int, str], Ranks] | None = None


def build(
    folders: Folders,
    metric: str | None = None,
    baseline: str | None = None,
    paper: Paper | None = None,
    support: bool = False,
) -> Table:
    """The main table of the newest runs below folders.

    Args:
        folders: one or several; searched with all folders below.
        metric: as lmms-eval calls it; by default each task's first.
        baseline: the method to which differences are given, among lines of the same model.
        paper: adds what the paper states.
        support: adds whether what was retrieved held the answer, of which knowledge bases are read.

    Raises:
        UserError: there are no results, none has the metric, or no line is of the baseline.
    """
    found, older = newest(run for path in result_files(folders) for run in evaluations(path))
    runs = [run for of_tasks in found.values() for run in of_tasks.values()]
    columns = columns_of(runs, metric)
    if not columns:
        known = sorted({name for run in runs for name in run.scores})
        raise UserError(f"no task of these results has the metric {metric!r}; there are {', '.join(known)}")
    lines = _lines(found.values(), columns)
    if baseline is not None and baseline not in {line.method for line in lines}:
        methods = ", ".join(dict.fromkeys(line.method for line in lines))
        raise UserError(f"--baseline {baseline} is no method of these results; there are {methods}")
    table = _Builder(lines, columns, baseline, paper).table(older)
    return _with_support(table) if support else table


def _with_support(table: Table) -> Table:
    from comem_lmms.report.support import find_support  # reads knowledge bases and tasks, which the rest does without

    counts, remarks = find_support(table.lines, [column for column in table.columns if column.says_what_is_right])
    return replace(table, support=counts, remarks=[*table.remarks, *remarks])


def _lines(found: Iterable[Mapping[str, Evaluation]], columns: Sequence[Column]) -> list[Line]:
    metrics: dict[str, list[str]] = {}
    for column in columns:
        metrics.setdefault(column.task, []).append(column.metric)
    results = [
        {
            task: Result(run, read_answers(run.path, task, metrics[task]))
            for task, run in of_tasks.items()
            if task in metrics
        }
        for of_tasks in found
    ]
    return name_lines([of_tasks for of_tasks in results if of_tasks])


class _Builder:
    """Fills the cells column by column and collects notes on the way."""

    def __init__(
        self, lines: Sequence[Line], columns: Sequence[Column], baseline: str | None, paper: Paper | None
    ) -> None:
        self.lines, self.baseline, self.paper = lines, baseline, paper
        self.marks: dict[str, str] = {}  # by note
        self.remarks: list[str] = []
        self.comparisons = {column.task: compare_runs(lines, column.task) for column in columns}
        self.others = {place for found in self.comparisons.values() for place in found.others}
        marks = {task: tuple(map(self._mark, found.shared)) for task, found in self.comparisons.items()}
        self.columns = [column._replace(marks=marks[column.task], scale=_scale(lines, column)) for column in columns]
        self.samples = {column.name: [self._sample(line, column) for line in lines] for column in columns}

    def table(self, older: Sequence[Evaluation]) -> Table:
        columns = [(column, self._filled(column)) for column in self.columns]
        if average := self._average(dict(columns)):
            columns.insert(0, average)
        if self.paper:
            self._remark_on(self.paper)
        by_line = [[cells[place] for _, cells in columns] for place in range(len(self.lines))]
        return Table(
            [column for column, _ in columns],
            self.lines,
            by_line,
            self._costs(),
            {mark: note for note, mark in self.marks.items()},
            self.remarks,
            self.baseline,
            self.paper,
            older,
            {task: found.others for task, found in self.comparisons.items()},
        )

    def _remark_on(self, paper: Paper) -> None:
        self.remarks.append(f"Paper: {paper.source}.")
        if other := sorted({column.metric for column in self.columns if not column.split} - {paper.metric}):
            self.remarks.append(f"A result by {', '.join(other)} is not what the paper's numbers are of.")
        self.remarks += [f"Paper: {one}" for one in paper.inconsistencies]

    def _mark(self, note: str) -> str:
        """The letter of a note: a to z, then aa."""
        number = len(self.marks)
        letter = chr(ord("a") + number % 26)
        return self.marks.setdefault(note, letter * (1 + number // 26))

    def _sample(self, line: Line, column: Column) -> Sample | None:
        result = line.results.get(column.task)
        return result and sample_of(result.answers.items[column.metric], _score(result.run, column).value)

    def _filled(self, column: Column) -> list[Cell]:
        comparison = self.comparisons[column.task]
        cells = []
        for place, line in enumerate(self.lines):
            scored = _score(line.results[column.task].run, column) if column.task in line.results else NOTHING
            notes = comparison.notes.get(place, []) if scored.value is not None else []
            cell = _cell(scored, column.scale, [self._mark(note) for note in notes])
            cell.paper = self._stated(line, column)
            cell.other_documents = place in comparison.others
            cells.append(cell)
        self._judge(cells, self.samples[column.name], comparison.others, column)
        return cells

    def _average(self, cells: Mapping[Column, list[Cell]]) -> tuple[Column, list[Cell]] | None:
        """Over the tasks that all lines have, without lines that were asked other documents than most."""
        wholes = {column: of_lines for column, of_lines in cells.items() if not column.split and column.scale == 100}
        able = [place for place in range(len(self.lines)) if place not in self.others]
        shared = [
            column for column, of_lines in wholes.items() if all(of_lines[place].value is not None for place in able)
        ]
        if len(wholes) < 2:
            return None
        if not able or len(shared) < 2:
            self.remarks.append("There is no average: fewer than two benchmarks are shared by all lines.")
            return None
        tasks = [column.task for column in shared]
        self.remarks.append(f"The average is over {', '.join(tasks)}, which all lines share.")
        independent = ask_different_questions(tasks)
        if not independent:
            self.remarks.append("The average has no standard error: some of these tasks ask the same questions.")
        averages = [self._mean(line, shared, independent) for line in self.lines]
        samples = [self._whole(place, shared) if independent else None for place in range(len(self.lines))]
        for place in self.others:
            averages[place], samples[place] = Cell(), None
        column = Column(AVERAGE, "", lower_is_better=any(column.lower_is_better for column in shared))
        self._judge(averages, samples, self.others, column)
        return column, averages

    def _mean(self, line: Line, shared: Sequence[Column], independent: bool) -> Cell:
        runs = [(line.results[column.task].run, column) for column in shared if column.task in line.results]
        found = macro_estimate([_score(run, column) for run, column in runs])
        cell = _cell(found if independent else found._replace(stderr=None))
        stated = [number for column in shared if (number := self._stated(line, column)) is not None]
        cell.paper = sum(stated) / len(stated) if len(stated) == len(shared) else None
        return cell

    def _whole(self, place: int, shared: Sequence[Column]) -> Sample | None:
        parts = [self.samples[column.name][place] for column in shared]
        known = [part for part in parts if part is not None]
        return average(known) if len(known) == len(parts) else None

    def _stated(self, line: Line, column: Column) -> float | None:
        if self.paper is None or line.is_control:
            return None
        return self.paper.value(line.method, line.model, column.task, column.split)

    def _judge(self, cells: list[Cell], samples: list[Sample | None], others: set[int], column: Column) -> None:
        """Says what is best and how far all are from the baseline; lines on other documents take no part."""
        able = [p for p, cell in enumerate(cells) if cell.value is not None and p not in others]
        ranked = [place for place in able if not self.lines[place].is_control]
        for place in _best(ranked, cells, samples, column.lower_is_better):
            cells[place].best = True
        for place in able:
            base = self._base_of(place)
            if base in able and base != place:
                cells[place].difference = _difference(place, base, cells, samples, column.scale)

    def _base_of(self, place: int) -> int | None:
        model = self.lines[place].model
        fits = (p for p, line in enumerate(self.lines) if (line.method, line.model) == (self.baseline, model))
        return next(fits, None)

    def _costs(self) -> list[Cost]:
        usual = [line for place, line in enumerate(self.lines) if place not in self.others]
        tasks = [task for task in self.comparisons if all(task in line.results for line in usual)]
        if not tasks:
            self.remarks.append("Costs are of different benchmarks: none is shared by all lines.")
        answers = [
            [r.answers for task, r in line.results.items() if task in (tasks or line.results)] for line in self.lines
        ]
        return [cost([usage for answer in of_tasks for usage in answer.usages]) for of_tasks in answers]


def _score(run: Evaluation, column: Column) -> Estimate:
    return run.scores.get(column.metric, NOTHING)


def _scale(lines: Sequence[Line], column: Column) -> int:
    """Fractions become percent; a metric with a value beyond 1, as others' tasks have, is no fraction."""
    runs = [line.results[column.task].run for line in lines if column.task in line.results]
    return 1 if any(abs(_score(run, column).value or 0) > 1 for run in runs) else 100


def _cell(scored: Estimate, scale: int = 100, marks: Sequence[str] = ()) -> Cell:
    value, stderr = (None if number is None else scale * number for number in scored)
    return Cell(value, stderr, marks=list(marks))


def _best(places: list[int], cells: list[Cell], samples: list[Sample | None], lower_is_better: bool) -> set[int]:
    """The best, and those that are not significantly worse; where nothing can be tested, those of the same value."""
    if len(places) < 2:
        return set()
    sign = -1 if lower_is_better else 1
    values = {place: sign * value for place in places if (value := cells[place].value) is not None}
    top = max(places, key=values.__getitem__)
    rest = {place: _compare(samples[top], samples[place]) for place in places if place != top}
    tested = {place: found.p for place, found in rest.items() if found}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    equal = {place for place in rest if values[place] == values[top]}
    return {top, *equal, *(place for place, p in adjusted.items() if p >= SIGNIFICANT)}


def _difference(place: int, base: int, cells: list[Cell], samples: list[Sample | None], scale: int) -> Distance | None:
    if found := _compare(samples[place], samples[base]):
        return Distance(scale * found.value, scale * found.low, scale * found.high, found.p)
    one, other = cells[place].value, cells[base].value
    return None if one is None or other is None else Distance(one - other)


def _compare(one: Sample | None, other: Sample | None) -> Difference | None:
    if one is None or other is None or list(map(len, one.groups)) != list(map(len, other.groups)):
        return None
    return compare(one, other)
