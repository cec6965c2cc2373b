"""Compares our scores with recorded ones of the original scorers: a folder in, one line a file and scorer out."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from comem_lmms.errors import UserError
from comem_lmms.linking.wordpiece import default_vocabulary
from comem_lmms.scoring.replay.aggregates import AGGREGATES, compare_aggregates
from comem_lmms.scoring.replay.functions import (
    FUNCTIONS,
    TABLES,
    TYPES,
    compare_functions,
    compare_tables,
    compare_types,
)
from comem_lmms.scoring.replay.links import CORPUS, LINKS, compare_links
from comem_lmms.scoring.replay.recorded import Compared, Group, Row, read
from comem_lmms.scoring.replay.rows import ROWS, compare_rows

VOCABULARY = "bert-base-uncased/vocab.txt"  # beside the folder
MALFORMED = (LookupError, TypeError, ValueError, AttributeError)  # what files of another layout come to


def main() -> None:
    """Ends with status 1 on any difference, and on any complaint, of which all are told in one line."""
    parser = argparse.ArgumentParser(prog="python -m comem_lmms.scoring.replay", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help=f"vocab.txt of bert-base-uncased, to link OVEN's predictions; default: {VOCABULARY} beside the folder, "
        "else that of the Hub",
    )
    parser.add_argument("--show", type=int, default=3, help="how many differences to print of a file and scorer")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"{arguments.folder} is not a folder of recorded scores")
    print(f"{'file':39} {'scorer':44} {'rows':>6} {'compared':>8} {'mismatches':>10} {'exempt':>6}  notes")
    rows: list[Compared] = []
    complaints: list[str] = []
    for group in replayed(arguments.folder, arguments.vocabulary, complaints):
        show(group, arguments.show)
        rows += group.rows
    total = Group("total", "", rows)
    print(total)
    sys.exit(f"{arguments.folder}: {'; '.join(complaints)}" if complaints else int(bool(total.wrong)))


def replayed(folder: Path, vocabulary: Path | None, complaints: list[str]) -> Iterator[Group]:
    """Every file of the folder, compared; adds what is missing, unknown or unreadable to the complaints."""
    present = {path.name for path in folder.iterdir() if path.suffix in (".json", ".jsonl")}
    results: list[Row] = []
    evaluated = {name for name in present if "_aggregate" in name}  # as long as no results say which
    if AGGREGATES in present:
        try:
            found = read(folder / AGGREGATES)
            evaluated, results = {result["file"] for result in found}, found
        except MALFORMED as error:
            complaints.append(_malformed(AGGREGATES, error))
    compared = [*sorted(ROWS), FUNCTIONS, TABLES, TYPES, *sorted(evaluated), LINKS]
    known = {*compared, CORPUS, AGGREGATES}
    complaints += [f"{name} is missing" for name in sorted(known - present)]
    complaints += [f"nothing here compares {name}" for name in sorted(present - known)]
    for file in compared:
        if file in present and (file != LINKS or CORPUS in present):
            try:
                yield from _compared(folder / file, [one for one in results if one["file"] == file], vocabulary)
            except MALFORMED as error:
                complaints.append(_malformed(file, error))


def _compared(path: Path, results: list[Row], vocabulary: Path | None) -> Iterator[Group]:
    """The groups of one file; ``results`` are those of a whole evaluation."""
    if path.name in ROWS:
        yield from compare_rows(path.name, read(path))
    elif path.name == FUNCTIONS:
        yield from compare_functions(read(path))
    elif path.name == TABLES:
        yield compare_tables(json.loads(path.read_text("utf-8")))
    elif path.name == TYPES:
        yield compare_types(path.parent)
    elif path.name == LINKS:
        beside = path.parent.resolve().parent / VOCABULARY
        yield from compare_links(path.parent, vocabulary or (beside if beside.is_file() else default_vocabulary()))
    for result in results:
        yield from compare_aggregates(result, read(path))


def _malformed(file: str, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"{file} is not laid out as expected ({error!r}); compare it with the file that it was copied from"


def show(group: Group, limit: int) -> None:
    """The group's line, and its first differences below it."""
    print(group, flush=True)
    for row in group.wrong[:limit]:
        print(f"    {row.name}: recorded {row.expected!r}, here {row.ours!r}")


if __name__ == "__main__":
    main()
