"""Writes tables and plots of MicroSeek from measured results into README.md, docs/report.md and docs/microseek.md.

    make demo && python benchmarks/readme.py results/microseek
    make micro SEED=2 && python benchmarks/readme.py results/micro-2 another-seed

copy ``summary.json``, the main table and what the plots show to ``benchmarks/results/``, put the tables between the
markers of the documents, and draw the plots that they show into docs/plots/. Without a folder the committed results are
only rendered again.
"""

import argparse
import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms.report import Row, build, render, write
from comem_lmms.report.drawing import draw
from comem_lmms.report.figures import Figure, figures

ROOT = Path(__file__).parents[1]
END = "<!-- end -->"
LIBRARIES = ("lmms-eval", "torch", "transformers", "peft", "open_clip_torch", "faiss-cpu")


class Table(NamedTuple):
    """Where measured results lie, the document that shows them, and the command that measured them."""

    measured: Path
    document: Path
    command: str
    name: str  # of its marker
    main: bool = False  # the table of several tasks, in place of that of one

    @property
    def start(self) -> str:
        """The marker in front of it."""
        return f"<!-- {self.name}: written by benchmarks/readme.py -->"

    def record(self) -> dict[str, Any]:
        """What was measured."""
        return json.loads(self.measured.read_text())

    def block(self) -> str:
        """The part of the document from marker to marker."""
        measured = self.record()
        if self.main:
            return f"{self.start}\n{measured['main']}\n{END}"
        libraries = ", ".join(f"{name} {number}" for name, number in measured["versions"].items())
        note = f"Measured by `{self.command}` on {measured['date']}, {measured['machine']}; {libraries}."
        return f"{self.start}\n{render([Row(**row) for row in measured['rows']])}\n\n{note}\n{END}"

    def collect(self, folder: Path) -> None:
        """Takes over what the command left."""
        table = build(folder, baseline="baseline", support=True)
        measured = {
            "date": date.today().isoformat(),
            "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}",
            "versions": {name: version(name) for name in LIBRARIES},
            "rows": json.loads((folder / "summary.json").read_text()),
            "main": write(table, "md"),
            "figures": [figure.as_json() for figure in figures(table).drawn],
        }
        self.measured.write_text(json.dumps(measured, indent=1) + "\n")

    def write(self) -> None:
        """Into the document."""
        before, rest = self.document.read_text().split(self.start)
        self.document.write_text(before + self.block() + rest.split(END, 1)[1])


SHIPPED, OTHER = (ROOT / f"benchmarks/results/{name}.json" for name in ("microseek", "another-seed"))
TABLES = (
    Table(SHIPPED, ROOT / "README.md", "make demo", "microseek"),
    Table(SHIPPED, ROOT / "docs/report.md", "make demo", "report", main=True),
    Table(OTHER, ROOT / "docs/microseek.md", "make micro SEED=2", "another-seed"),
)
PLOTS = ROOT / "docs/plots"
SHOWN = ("accuracy-tokens", "accuracy-seconds", "parts-microseek", "rank-microseek")


def shown() -> list[Figure]:
    """What the plots in the documents show."""
    drawn = (Figure.from_json(told) for told in TABLES[0].record()["figures"])
    return [figure for figure in drawn if figure.name in SHOWN]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("table", choices=("microseek", "another-seed"), nargs="?", default="microseek")
    args = parser.parse_args()
    if args.folder:
        next(table for table in TABLES if table.name == args.table).collect(args.folder)
    for table in TABLES:
        table.write()
    draw(shown(), PLOTS, ["png"])


if __name__ == "__main__":
    main()
