"""Rows in, a Markdown table out."""

from collections.abc import Sequence

from comem_lmms.report.rows import Row

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


def _table(task: str, rows: Sequence[Row]) -> str:
    cells = [COLUMNS, *((_method(row, rows), *_cells(row)) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = [
        "| "
        + " | ".join(_align(text, width, i) for i, (text, width) in enumerate(zip(line, widths, strict=True)))
        + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) if i < 2 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    questions = ", ".join(sorted({str(row.questions) for row in rows}))
    metrics = "".join(f", {metric}" for metric in sorted({row.metric for row in rows}) if metric)
    tasks = f" ({', '.join(rows[0].tasks)})" if rows[0].tasks else ""
    return "\n".join([f"{task}{tasks}, {questions} questions{metrics}", "", lines[0], rule, *lines[1:]])


def _align(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 2 else text.rjust(width)


def _method(row: Row, rows: Sequence[Row]) -> str:
    """The method, with its arguments where others of the same name and retrieval are in the table."""
    if sum((row.method, row.retrieval) == (other.method, other.retrieval) for other in rows) == 1:
        return row.method
    given = ",".join(part for part in row.model_args.split(",") if part != f"retrieval={row.retrieval}")
    return f"{row.method} {given}".strip()


def _cells(row: Row) -> tuple[str, ...]:
    uncertainty = "" if row.stderr is None else f" ± {row.stderr:.1f}"
    return (
        "-" if row.retrieval == "none" else row.retrieval,
        _number(row.accuracy, 1) + uncertainty,
        _number(row.prompt_tokens, 0),
        _number(row.memory_vectors, 0),
        _number(row.seconds_per_question, 3),
        _number(row.encode_seconds, 3),
        _number(row.recall_at_1, 1),
        _number(row.recall_at_k, 1),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
