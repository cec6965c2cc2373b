"""Writes the table of the README from measured results.

    make demo && python benchmarks/readme.py results/microseek

copies ``summary.json`` to ``benchmarks/results/microseek.json`` and puts its table between the markers in README.md.
Without a folder it only renders the committed results again.
"""

import json
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

from comem_lmms.report import Row, render

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "benchmarks/results/microseek.json"
START, END = "<!-- microseek: written by benchmarks/readme.py -->", "<!-- end -->"
LIBRARIES = ("lmms-eval", "torch", "transformers", "peft", "open_clip_torch", "faiss-cpu")


def block() -> str:
    """The part of the README between the markers."""
    measured = json.loads(MEASURED.read_text())
    libraries = ", ".join(f"{name} {number}" for name, number in measured["versions"].items())
    note = f"Measured by `make demo` on {measured['date']}, {measured['machine']}; {libraries}."
    return f"{START}\n{render([Row(**row) for row in measured['rows']])}\n\n{note}\n{END}"


def collect(folder: Path) -> None:
    """Takes over what `make demo` left."""
    measured = {
        "date": date.today().isoformat(),
        "machine": f"CPU ({platform.machine()}), Python {platform.python_version()}",
        "versions": {name: version(name) for name in LIBRARIES},
        "rows": json.loads((folder / "summary.json").read_text()),
    }
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n")


def main() -> None:
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    readme.write_text(before + block() + after)


if __name__ == "__main__":
    main()
