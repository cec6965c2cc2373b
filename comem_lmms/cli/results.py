"""``comem-lmms report`` and ``comem-lmms rescore``: what lmms-eval wrote, as tables and scored again."""

import argparse
from pathlib import Path
from typing import Any

from comem_lmms.errors import UserError


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    report = commands.add_parser("report", help="print the table of a folder of lmms-eval results")
    report.add_argument("folder", type=Path, help="what --output_path was; searched with all folders below")
    report.add_argument(
        "--metric", metavar="NAME", help="e.g. paper; default: each task's first, official or exact_match"
    )
    report.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    report.add_argument("--rows", type=int, metavar="N", help="fail unless there are exactly N rows")
    report.set_defaults(run=_report)

    rescore = commands.add_parser("rescore", help="score a sample log of lmms-eval again, without a model")
    rescore.add_argument("samples", type=Path, help="a *_samples_*.jsonl that --log_samples wrote")
    rescore.add_argument("--task", required=True, help="whose scorers to use; usually the task that was run")
    rescore.set_defaults(run=_rescore)


def _report(arguments: argparse.Namespace) -> None:
    from comem_lmms.report import read_rows, render, write_summary

    rows = read_rows(arguments.folder, arguments.metric)
    if arguments.rows not in (None, len(rows)):
        raise UserError(f"{len(rows)} results under {arguments.folder}, not {arguments.rows}; see the log of lmms-eval")
    if arguments.json:
        write_summary(rows, arguments.json)
    print(render(rows))


def _rescore(arguments: argparse.Namespace) -> None:
    from loguru import logger

    from comem_lmms.rescore import render, rescore

    logger.remove()  # lmms-eval tells about every file that it reads; errors come as UserError
    print(render(rescore(arguments.samples, arguments.task)))
