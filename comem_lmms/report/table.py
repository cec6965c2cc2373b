"""Rows in, a Markdown table out."""

from collections.abc import Sequence

from comem_lmms.report.reading import arguments
from comem_lmms.report.rows import Row, run_of

COLUMNS = (
    "method",
    "retrieval",
    "accuracy %",
    "prompt tokens",
    "memory vectors",
    "s / question",
    "of it encoding",
    "recall@1 %",
    "recall@k %",
)


def render(rows: Sequence[Row]) -> str:
    """One table a group or task; a dash where nothing is known or nothing applies."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    return "\n\n".join(_table(task, [row for row in rows if row.task == task]) for task in tasks)


def aligned(lines: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a Markdown table, the first being its head; ``left`` columns are set flush left, the others right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    cells = [
        [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    rule = "|" + "|".join("-" * (w + 2) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    first, *rest = [f"| {' | '.join(line)} |" for line in cells]
    return [first, rule, *rest]


def number(value: float | None, digits: int) -> str:
    """A dash where nothing is known."""
    return "-" if value is None else f"{value:.{digits}f}"


def _table(task: str, rows: Sequence[Row]) -> str:
    questions = ", ".join(sorted({str(row.questions) for row in rows}))
    metrics = "".join(f", {metric}" for metric in sorted({row.metric for row in rows}) if metric)
    tasks = f" ({', '.join(rows[0].tasks)})" if rows[0].tasks else ""
    most = max(row.questions for row in rows)
    named = ((_method(row, rows) + _fewer(row, most), *_cells(row)) for row in rows)
    lines = aligned([COLUMNS, *named], left=2)
    return "\n".join([f"{task}{tasks}, {questions} questions{metrics}", "", *lines])


def _fewer(row: Row, most: int) -> str:
    """The mark of a row that was asked fewer questions than others."""
    return f" ({row.questions} questions)" if row.questions < most else ""


def _method(row: Row, rows: Sequence[Row]) -> str:
    """The method, with its arguments where others of the same name and retrieval are in the table, or with its
    retrieval run where others of the same retrieval are of another."""
    same = [other for other in rows if other.retrieval == row.retrieval]
    runs = {run_of(arguments(other.model_args)) for other in same} - {None}
    given = [part for part in row.model_args.split(",") if part != f"retrieval={row.retrieval}"]
    if sum(other.method == row.method for other in same) == 1:
        given = [part for part in given if part.startswith("retrieval=") and len(runs) > 1]
    return f"{row.method} {','.join(given)}".strip()


def _cells(row: Row) -> tuple[str, ...]:
    uncertainty = "" if row.stderr is None else f" ± {row.stderr:.1f}"
    return (
        "-" if row.retrieval == "none" else row.retrieval,
        number(row.accuracy, 1) + uncertainty,
        number(row.prompt_tokens, 0),
        number(row.memory_vectors, 0),
        number(row.seconds_per_question, 3),
        number(row.encode_seconds, 3),
        number(row.recall_at_1, 1),
        number(row.recall_at_k, 1),
    )
