"""Recall in, a Markdown table with a histogram of ranks, JSON or CSV out."""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from comem_lmms.runs.recall import Recall

WIDTH = 40  # of the longest bar
_HEAD = ("task", "measure", "part", "questions", "in base", "no hits")  # what a `Recall` begins with
_FIRST = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 20))


def markdown(rows: Sequence[Recall], k: int) -> str:
    """A table of percentages with standard errors, and below it at which rank each task finds what it looks for.

    What cannot be judged has no line, but is named with the reason; once for a task of which all is so.
    """
    unjudged = [row for row in rows if row.unjudged]
    wholes = {(row.task, row.measure) for row in unjudged if row.part == "all"}
    reasons = [row.unjudged for row in unjudged if row.part == "all" or (row.task, row.measure) not in wholes]
    rows = [row for row in rows if not row.unjudged]
    lines = [(*_HEAD, *(f"recall@{depth} %" for depth in rows[0].at))]
    lines += [(*map(_cell, row[: len(_HEAD)]), *map(_percent, row.at.values())) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = "|" + "|".join("-" * (w + 2) if i < 3 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    table = [
        "| "
        + " | ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        + " |"
        for line in lines
    ]
    histograms = [histogram(row, k) for row in rows if row.part == "all"]
    said = ["\n".join(f"not measured: {reason}" for reason in reasons)] if reasons else []
    return "\n\n".join(["\n".join([table[0], rule, *table[1:]]), *said, *histograms])


def histogram(row: Recall, k: int) -> str:
    """How many questions find it first at which ranks, as bars."""
    bins = [*((low, min(high, k)) for low, high in _FIRST if low <= k), *([(21, k)] if k > 20 else [])]
    counts = {
        str(low) if low == high else f"{low}-{high}": sum(n for rank, n in row.first.items() if low <= rank <= high)
        for low, high in bins
    }
    counts["none"] = row.questions - sum(counts.values())
    most = max(counts.values())
    bars = [f"{name:>6} {count:>8}  {'#' * round(WIDTH * count / most)}".rstrip() for name, count in counts.items()]
    return "\n".join([f"{row.task}, rank of the first right {row.measure}, {row.questions} questions", "", *bars])


def as_json(rows: Sequence[Recall]) -> str:
    """The rows as a list of objects; numbers are fractions."""
    told = [
        {**row._asdict(), "at": {k: one._asdict() for k, one in row.at.items()}, "first": row.first} for row in rows
    ]
    return json.dumps(told, indent=1, ensure_ascii=False)


def as_csv(rows: Sequence[Recall]) -> str:
    """A line for each row and k; numbers are fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*(name.replace(" ", "_") for name in _HEAD), "k", "recall", "stderr"))
    writer.writerows(_lines(rows))
    return text.getvalue().rstrip("\n")


def _lines(rows: Sequence[Recall]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        for k, one in row.at.items():
            yield *row[: len(_HEAD)], k, one.value, one.stderr


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _percent(one: tuple[float | None, float | None]) -> str:
    value, stderr = one
    error = "" if stderr is None else f" ± {100 * stderr:.1f}"
    return "-" if value is None else f"{100 * value:.1f}{error}"
