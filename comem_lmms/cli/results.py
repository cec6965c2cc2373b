"""``comem-lmms report``, ``explore`` and ``rescore``: what lmms-eval wrote, as tables, as a site, and scored again."""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem_lmms.errors import UserError

if TYPE_CHECKING:
    from comem_lmms.report import Table

FORMATS = ("md", "tex", "csv", "html", "json", "hf")  # of comem_lmms.report, which imports numpy


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    report = commands.add_parser("report", help="print tables of folders of lmms-eval results")
    _add_folders(report, "what --output_path was; searched with all folders below")
    report.add_argument("--task", metavar="NAME", help="the table of one task or group; the default if there is one")
    report.add_argument("--format", choices=FORMATS, help="of the main table: all methods by all benchmarks")
    report.add_argument("--baseline", metavar="METHOD", help="adds the differences to this method to the main table")
    report.add_argument("--paper", action="store_true", help="adds the paper's numbers, by the metric they are of")
    report.add_argument(
        "--support", action="store_true", help="adds whether the answer was in what was retrieved, and was given"
    )
    report.add_argument("--plots", type=Path, metavar="FOLDER", help="also draws the main table, as PNG and SVG")
    report.add_argument("--splits", action="store_true", help="adds all parts of benchmarks to the main table")
    report.add_argument("--verbose", action="store_true", help="says what the lines of the main table were made of")
    report.add_argument(
        "--metric", metavar="NAME", help="e.g. paper; default: each task's first, official or exact_match"
    )
    report.add_argument("--json", type=Path, metavar="FILE", help="also write the rows, by task, as JSON")
    report.add_argument("--rows", type=int, metavar="N", help="fail unless there are exactly N rows, by task")
    report.set_defaults(run=_report)

    explore = commands.add_parser("explore", help="make a site of all questions: what was retrieved and answered")
    _add_folders(explore, "what --output_path was, with --log_samples; searched with all folders below")
    explore.add_argument("--out", type=Path, metavar="SITE", help="folder to write the site to, in place of one there")
    explore.add_argument("--serve", action="store_true", help="show the site on this machine until interrupted")
    explore.add_argument(
        "--port", type=int, nargs=1, default=[], help="to serve at, 0 for any that is free; default: 8765"
    )
    explore.add_argument(
        "--knowledge",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="of a knowledge base that is not where the runs found it; may be given several times",
    )
    explore.add_argument("--include_path", metavar="DIR", help="folder with more tasks, as for lmms-eval")
    explore.set_defaults(run=_explore)

    rescore = commands.add_parser("rescore", help="score a sample log of lmms-eval again, without a model")
    rescore.add_argument("samples", type=Path, help="a *_samples_*.jsonl that --log_samples wrote")
    rescore.add_argument("--task", required=True, help="whose scorers to use; usually the task that was run")
    rescore.set_defaults(run=_rescore)


def _add_folders(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help=what)


def _report(arguments: argparse.Namespace) -> None:
    from comem_lmms.report import load_paper, read_rows, render, task_names, write_summary

    a = arguments
    of_main = a.format or a.baseline or a.paper or a.splits or a.verbose or a.support or a.plots
    if arguments.task is not None and of_main:
        raise UserError("--task is for the tables by task, --format and the like for the main table; give either")
    metric = arguments.metric or (load_paper().metric if arguments.paper else None)
    tasks = task_names(arguments.folders)
    if arguments.task is not None and arguments.task not in tasks:
        raise UserError(f"--task {arguments.task} is not among these results; there are {', '.join(tasks)}")
    by_task = arguments.task is not None or (len(tasks) == 1 and not of_main)
    if by_task or arguments.rows is not None or arguments.json:
        rows = read_rows(arguments.folders, metric, arguments.task)
        if arguments.rows not in (None, len(rows)):
            named = " and ".join(map(str, arguments.folders))
            raise UserError(f"{len(rows)} results under {named}, not {arguments.rows}; see the log of lmms-eval")
        if arguments.json:
            write_summary(rows, arguments.json)
    print(render(rows) if by_task else _main_table(arguments, metric))


def _main_table(arguments: argparse.Namespace, metric: str | None) -> str:
    from comem_lmms.report import build, load_paper, write

    paper = load_paper() if arguments.paper else None
    table = build(arguments.folders, metric, arguments.baseline, paper, arguments.support)
    if arguments.plots:
        _draw(table, arguments.plots)
    return write(table, arguments.format or "md", arguments.splits, arguments.verbose)


def _draw(table: "Table", folder: Path) -> None:
    """What is written and what is not is told on the error stream, since the table has the other."""
    from comem_lmms.report.drawing import draw
    from comem_lmms.report.figures import figures

    found = figures(table)
    for path in draw(found.drawn, folder):
        print(f"wrote {path}", file=sys.stderr)
    for reason in found.left_out:
        print(f"not drawn: {reason}", file=sys.stderr)


def _explore(arguments: argparse.Namespace) -> None:
    if arguments.out is None and not arguments.serve:
        raise UserError("give --out SITE to write the site, --serve to look at it, or both")
    if arguments.port and not arguments.serve:
        raise UserError("--port is for --serve; give both or neither")
    # Pictures are worth no download: what lmms-eval would get for a task must be here. Before the libraries are loaded.
    for library in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.setdefault(library, "1")
    from loguru import logger

    logger.remove()  # lmms-eval tells about every file that it reads; errors come as UserError
    if arguments.out is not None:
        _build_and_serve(arguments, arguments.out)
    else:
        with tempfile.TemporaryDirectory(prefix="comem-lmms-explore-") as folder:
            _build_and_serve(arguments, Path(folder, "site"))


def _build_and_serve(arguments: argparse.Namespace, out: Path) -> None:
    from comem_lmms.explorer import build, serve

    with ExitStack() as stack:
        # Listens at once, so that a port that is taken is noticed before minutes of work.
        server = stack.enter_context(serve(out, *arguments.port)) if arguments.serve else None
        built = build(arguments.folders, out, arguments.include_path, arguments.knowledge)
        for problem in built.problems:
            print(f"not shown: {problem}", file=sys.stderr)
        print(
            f"{built.page}: {built.questions} questions ({built.pictured} with a picture) of {', '.join(built.tasks)}, "
            f"answered by {len(built.lines)} lines"
        )
        if server:
            print(f"http://127.0.0.1:{server.server_port}/ until interrupted", flush=True)
            with suppress(KeyboardInterrupt):
                server.serve_forever()


def _rescore(arguments: argparse.Namespace) -> None:
    from loguru import logger

    from comem_lmms.rescore import render, rescore

    logger.remove()  # lmms-eval tells about every file that it reads; errors come as UserError
    print(render(rescore(arguments.samples, arguments.task)))
