"""The main table and the cost table in, Markdown as GitHub renders it out."""

import re
from collections.abc import Sequence

from comem_lmms.report.columns import Column
from comem_lmms.report.grids import HEAD, Grid, grids, labels
from comem_lmms.report.leaderboard import Cell, Table
from comem_lmms.report.provenance import older_runs, provenance
from comem_lmms.report.table import aligned, number

# An underscore within a word is one; all else that may mean something is escaped.
_SPECIAL = re.compile(r"[\\`*\[\]|~$#!]|(?<!\w)_|_(?!\w)")


def markdown(table: Table, splits: bool = False, verbose: bool = False) -> str:
    """All tables with their notes.

    Args:
        splits: with all parts of benchmarks, also those that a result is not made of.
        verbose: with what every line was made of, and the runs that newer ones replace.
    """
    parts = ["\n".join(_results(table, splits)), _notes(table)]
    for grid in grids(table):
        parts += [grid.title, "\n".join(_grid(grid)), f"- {escape(grid.note)}" if grid.note else ""]
    if verbose:
        parts += [_provenance(table), *_older(table)]
    elif table.older:
        parts.append(f"{len(table.older)} older results are replaced by newer ones; --verbose lists them.")
    return "\n\n".join(part for part in parts if part)


def escape(text: str) -> str:
    """Text of others for Markdown, on one line."""
    html = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\g<0>", html)


def shown(table: Table, splits: bool) -> list[tuple[int, Column]]:
    """The columns to show, with their places."""
    return [(place, column) for place, column in enumerate(table.columns) if splits or column.is_made_of]


def has_paper(table: Table, place: int) -> bool:
    """Whether the paper states anything in a column."""
    return any(cells[place].paper is not None for cells in table.cells)


def uncertain(cell: Cell) -> str:
    """A value with its standard error."""
    return number(cell.value, 1) + ("" if cell.stderr is None else f" ± {cell.stderr:.1f}")


def difference(cell: Cell) -> str:
    """To the baseline, with its interval; empty without."""
    if cell.difference is None:
        return ""
    value, low, high, _ = cell.difference
    return f"{value:+.1f}" + ("" if low is None or high is None else f" [{low:+.1f}, {high:+.1f}]")


def stated(cell: Cell) -> str:
    """What the paper states, and how far the result is from it."""
    if cell.paper is None:
        return "-"
    return f"{cell.paper:.1f}" + ("" if cell.value is None else f" ({cell.value - cell.paper:+.1f})")


def caption(table: Table) -> str:
    """What the numbers are."""
    metrics = ", ".join(dict.fromkeys(column.metric for column in table.columns if column.metric and not column.split))
    told = [
        f"Percent by {metrics}, ± standard error.",
        "Bold: the best, and all that are not significantly worse (paired tests, Holm, 5 %); controls take no part.",
    ]
    if others := [column.name for column in table.columns if column.scale != 100]:
        told.append(f"No fractions, so not in percent: {', '.join(others)}.")
    if table.baseline:
        told.append(f"Signed: difference to {table.baseline} with the same model, 95 % interval.")
    if table.paper:
        told.append("paper: what the paper states, and in brackets how far the result is from it.")
    return " ".join(told)


def _results(table: Table, splits: bool) -> list[str]:
    columns = shown(table, splits)
    head = [*HEAD]
    for place, column in columns:
        head.append(escape(column.name) + _sup(column.marks))
        head += ["paper"] if has_paper(table, place) else []
    lines = [head]
    for names, cells in zip(labels(table), table.cells, strict=True):
        line = [escape(name) for name in names]
        for place, _ in columns:
            line.append(_cell(cells[place]))
            line += [stated(cells[place])] if has_paper(table, place) else []
        lines.append(line)
    return aligned(lines, left=len(HEAD))


def _cell(cell: Cell) -> str:
    value = f"**{uncertain(cell)}**" if cell.best else uncertain(cell)
    return value + _sup(cell.marks) + (f"<br>{difference(cell)}" if cell.difference else "")


def _sup(marks: Sequence[str]) -> str:
    return f"<sup>{','.join(marks)}</sup>" if marks else ""


def _notes(table: Table) -> str:
    notes = [f"- <sup>{mark}</sup> {escape(note)}" for mark, note in table.notes.items()]
    return "\n".join([f"- {escape(caption(table))}", *notes, *(f"- {escape(remark)}" for remark in table.remarks)])


def _grid(grid: Grid) -> list[str]:
    lines = [[*map(escape, names), *(shown for _, shown in numbers)] for names, numbers in grid.lines]
    return aligned([[*grid.texts, *grid.numbers], *lines], left=len(grid.texts))


def _provenance(table: Table) -> str:
    parts = ["What the lines were made of"]
    for line in table.lines:
        facts = [f"  - {escape(name)}: {escape(value)}" for name, value in provenance(line)]
        parts.append("\n".join([f"- {escape(line.name)}, {escape(line.model)}, {escape(line.knowledge)}", *facts]))
    return "\n\n".join([parts[0], "\n".join(parts[1:])])


def _older(table: Table) -> list[str]:
    if not table.older:
        return []
    return ["Replaced by newer runs", "\n".join(f"- {escape(text)}" for text in older_runs(table.older))]
