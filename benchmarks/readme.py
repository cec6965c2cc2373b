"""Writes tables of MicroSeek from measured results: that of the README, and that of another seed in docs/microseek.md.

    make demo && python benchmarks/readme.py results/microseek
    make micro SEED=2 && python benchmarks/readme.py results/micro-2 another-seed

copy ``summary.json`` to ``benchmarks/results/`` and put its table between the markers of the document. Without a
folder the committed results are only rendered again.
"""

import argparse
import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from comem_lmms.report import Row, render

ROOT = Path(__file__).parents[1]
END = "<!-- end -->"
LIBRARIES = ("lmms-eval", "torch", "transformers", "peft", "open_clip_torch", "faiss-cpu")


class Table(NamedTuple):
    """Where measured results lie, the document that shows them, and the command that measured them."""

    measured: Path
    document: Path
    command: str

    @property
    def start(self) -> str:
        """The marker in front of it."""
        return f"<!-- {self.measured.stem}: written by benchmarks/readme.py -->"

    def block(self) -> str:
        """The part of the document from marker to marker."""
        measured = json.loads(self.measured.read_text())
        libraries = ", ".join(f"{name} {number}" for name, number in measured["versions"].items())
        note = f"Measured by `{self.command}` on {measured['date']}, {measured['machine']}; {libraries}."
        return f"{self.start}\n{render([Row(**row) for row in measured['rows']])}\n\n{note}\n{END}"

    def collect(self, folder: Path) -> None:
        """Takes over the summary that the command left."""
        measured = {
            "date": date.today().isoformat(),
            "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
            "versions": {name: version(name) for name in LIBRARIES},
            "rows": json.loads((folder / "summary.json").read_text()),
        }
        self.measured.write_text(json.dumps(measured, indent=1) + "\n")

    def write(self) -> None:
        """Into the document."""
        before, rest = self.document.read_text().split(self.start)
        self.document.write_text(before + self.block() + rest.split(END, 1)[1])


RESULTS = ROOT / "benchmarks/results"
TABLES = {
    "microseek": Table(RESULTS / "microseek.json", ROOT / "README.md", "make demo"),
    "another-seed": Table(RESULTS / "another-seed.json", ROOT / "docs/microseek.md", "make micro SEED=2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("table", choices=TABLES, nargs="?", default="microseek")
    args = parser.parse_args()
    if args.folder:
        TABLES[args.table].collect(args.folder)
    for table in TABLES.values():
        table.write()


if __name__ == "__main__":
    main()
