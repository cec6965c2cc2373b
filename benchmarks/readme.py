"""Writes the tables of the README and of docs/report.md from measured results.

    make demo && python benchmarks/readme.py results/microseek

copies ``summary.json`` and the main table to ``benchmarks/results/microseek.json``, and puts them between the markers
in README.md and docs/report.md. Without a folder it only renders the committed results again.
"""

import json
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

from comem_lmms.report import Row, build, render, write

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "benchmarks/results/microseek.json"
START, END = "<!-- microseek: written by benchmarks/readme.py -->", "<!-- end -->"
REPORT = "<!-- report: written by benchmarks/readme.py -->"
LIBRARIES = ("lmms-eval", "torch", "transformers", "peft", "open_clip_torch", "faiss-cpu")


def block() -> str:
    """The part of the README between the markers."""
    measured = json.loads(MEASURED.read_text())
    libraries = ", ".join(f"{name} {number}" for name, number in measured["versions"].items())
    note = f"Measured by `make demo` on {measured['date']}, {measured['machine']}; {libraries}."
    return f"{START}\n{render([Row(**row) for row in measured['rows']])}\n\n{note}\n{END}"


def report_block() -> str:
    """The part of docs/report.md between the markers."""
    return f"{REPORT}\n{json.loads(MEASURED.read_text())['main']}\n{END}"


def collect(folder: Path) -> None:
    """Takes over what `make demo` left."""
    measured = {
        "date": date.today().isoformat(),
        "machine": f"CPU ({platform.machine()}), Python {platform.python_version()}",
        "versions": {name: version(name) for name in LIBRARIES},
        "rows": json.loads((folder / "summary.json").read_text()),
        "main": write(build(folder, baseline="baseline"), "md"),
    }
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n")


def main() -> None:
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    put(ROOT / "README.md", START, block())
    put(ROOT / "docs/report.md", REPORT, report_block())


def put(path: Path, start: str, text: str) -> None:
    """Replaces what is between the markers."""
    before, rest = path.read_text().split(start)
    path.write_text(before + text + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
