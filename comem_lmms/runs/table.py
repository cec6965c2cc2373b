"""Recall in, a Markdown table with a histogram of ranks, JSON or CSV out."""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from comem_lmms.runs.recall import Recall

WIDTH = 40  # of the longest bar
_FIRST = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 20))


def markdown(rows: Sequence[Recall], k: int) -> str:
    """A table of percentages with standard errors, and below it at which rank each task finds what it looks for."""
    depths = list(rows[0].at)
    lines = [("task", "measure", "part", "questions", *(f"recall@{depth} %" for depth in depths))]
    lines += [(row.task, row.measure, row.part, str(row.questions), *map(_percent, row.at.values())) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = "|" + "|".join("-" * (w + 2) if i < 3 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    table = [
        "| "
        + " | ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        + " |"
        for line in lines
    ]
    histograms = [histogram(row, k) for row in rows if row.part == "all"]
    return "\n\n".join(["\n".join([table[0], rule, *table[1:]]), *histograms])


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
    writer.writerow(("task", "measure", "part", "questions", "k", "recall", "stderr"))
    writer.writerows(_lines(rows))
    return text.getvalue().rstrip("\n")


def _lines(rows: Sequence[Recall]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        for k, one in row.at.items():
            yield row.task, row.measure, row.part, row.questions, k, one.value, one.stderr


def _percent(one: tuple[float | None, float | None]) -> str:
    value, stderr = one
    error = "" if stderr is None else f" ± {100 * stderr:.1f}"
    return "-" if value is None else f"{100 * value:.1f}{error}"
