"""The main table in, for programs: JSON by the schema that ships, or CSV, a line for each result."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from comem_lmms.report.columns import Column
from comem_lmms.report.leaderboard import Cell, Table
from comem_lmms.report.lines import Line
from comem_lmms.report.reading import Evaluation

SCHEMA = Path(__file__).with_name("schema.json")
FIELDS = (
    *("method", "model", "retrieval", "k", "variant", "task", "split", "metric", "value", "stderr", "best", "baseline"),
    *("difference", "low", "high", "p", "paper", "supported_right", "supported_wrong", "unsupported_right"),
    *("unsupported_wrong", "questions", "documents", "limit", "offset", "file", "notes"),
)


def as_json(table: Table) -> str:
    """Everything the table knows, as ``schema.json`` says."""
    return json.dumps(content(table), indent=1, ensure_ascii=False)


def as_csv(table: Table) -> str:
    """A line for each result; numbers are in percent where the metric is a fraction."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for place, cells in enumerate(table.cells):
        for column, cell in zip(table.columns, cells, strict=True):
            if cell.value is not None:
                writer.writerow(_record(table, place, column, cell))
    return text.getvalue().rstrip("\n")


def content(table: Table) -> dict[str, Any]:
    """What `as_json` writes."""
    return {
        "format": 1,
        "columns": [
            {
                "task": column.task,
                "split": column.split,
                "metric": column.metric,
                "lower_is_better": column.lower_is_better,
                "is_percent": column.scale == 100,
                "notes": list(column.marks),
            }
            for column in table.columns
        ],
        "baseline": table.baseline,
        "paper": table.paper and table.paper.source,
        "lines": [
            {
                **_names(line),
                "arguments": dict(_first(line).arguments),
                "fingerprints": line.told("fingerprints"),
                "versions": line.told("versions"),
                "results": [
                    {**_result(cell), "support": _support(table, place, column)}
                    for column, cell in zip(table.columns, cells, strict=True)
                ],
                "cost": cost._asdict(),
                "runs": {task: _run(result.run) for task, result in line.results.items()},
            }
            for place, (line, cells, cost) in enumerate(zip(table.lines, table.cells, table.costs, strict=True))
        ],
        "notes": dict(table.notes),
        "remarks": list(table.remarks),
        "older": [{"task": run.task, "file": str(run.path)} for run in table.older],
    }


def _names(line: Line) -> dict[str, Any]:
    return {
        "method": line.method,
        "model": line.model,
        "retrieval": line.retrieval,
        "k": line.k,
        "variant": line.variant,
    }


def _first(line: Line) -> Evaluation:
    return next(iter(line.results.values())).run


def _result(cell: Cell) -> dict[str, Any]:
    return {
        "value": cell.value,
        "stderr": cell.stderr,
        "best": cell.best,
        "difference": cell.difference and cell.difference._asdict(),
        "paper": cell.paper,
        "notes": list(cell.marks),
    }


def _support(table: Table, place: int, column: Column) -> dict[str, Any] | None:
    """Only of whole tasks."""
    ranks = (table.support or {}).get((place, column.task)) if not column.split else None
    if ranks is None:
        return None
    return {
        "measure": ranks.measure,
        "supported_right": ranks.supported.right,
        "supported_wrong": ranks.supported.questions - ranks.supported.right,
        "unsupported_right": ranks.unsupported.right,
        "unsupported_wrong": ranks.unsupported.questions - ranks.unsupported.right,
        "left_out": ranks.left_out,
    }


def _run(run: Evaluation) -> dict[str, Any]:
    return {
        "file": str(run.path),
        "date": run.date,
        "questions": run.questions,
        "documents": run.documents,
        "limit": run.limit,
        "offset": run.offset,
        "prompts": run.prompt,
        "generation": run.generation,
        "data": run.data,
        "lmms_eval": run.version,
    }


def _record(table: Table, place: int, column: Column, cell: Cell) -> dict[str, Any]:
    line = table.lines[place]
    support = _support(table, place, column) or {}
    difference = cell.difference._asdict() if cell.difference else {}
    run = _run(line.results[column.task].run) if column.task in line.results else {}
    record = {
        **_names(line),
        "task": column.task,
        "split": column.split,
        "metric": column.metric,
        "value": cell.value,
        "stderr": cell.stderr,
        "best": int(cell.best),
        "baseline": table.baseline if difference else None,
        "difference": difference.get("value"),
        **{name: difference.get(name) for name in ("low", "high", "p")},
        "paper": cell.paper,
        **{name: support.get(name) for name in FIELDS if name.partition("_")[0] in ("supported", "unsupported")},
        **{name: run.get(name) for name in ("questions", "documents", "limit", "offset", "file")},
        "notes": "; ".join(table.notes[mark] for mark in (*column.marks, *cell.marks)),
    }
    return record
