"""What it costs to store memories in fewer bits: MicroSeek by the dtype of the bank; JSON and a table out.

    python benchmarks/stored.py

The table goes between the markers in docs/memory.md.
"""

import json
import platform
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from lmms_eval.evaluator import simple_evaluate

from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.memory import STORED, MemoryBank
from comem_lmms.micro import resolve
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.memorize import memorize

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "benchmarks/results/stored.json"
DOCUMENT = ROOT / "docs/memory.md"
START, END = "<!-- stored: written by benchmarks/stored.py -->", "<!-- end -->"


def measure(dtype: str, folder: Path) -> dict[str, Any]:
    """Accuracy, size and error of a bank of MicroSeek's knowledge base, beside the one in float32."""
    knowledge = KnowledgeBase.open(resolve("micro", "knowledge"))
    bank = memorize(str(folder / dtype), MemoryArguments(batch_size=16), dtype)
    run = simple_evaluate("comem", f"memory_bank={bank.folder}", tasks=["microseek"], batch_size=8, bootstrap_iters=0)
    scores = run["results"]["microseek"]
    exact = MemoryBank.open(folder / "float32")
    keys = [knowledge.key(row) for row in range(len(knowledge))]
    pairs = [(bank[key].float(), exact[key]) for key in keys]
    error = torch.stack([(one - other).norm() / other.norm() for one, other in pairs])
    return {
        "dtype": dtype,
        "accuracy": 100 * scores["exact_match,none"],
        "megabytes": bank.nbytes / 1e6,
        "relative_error": error.mean().item(),
    }


def block(measured: dict[str, Any]) -> str:
    """The part of the document between the markers."""
    lines = ["| stored as | MB for 1,024 items | relative error | MicroSeek, top 3, % |", "|---|---:|---:|---:|"]
    lines += [
        f"| {row['dtype']} | {row['megabytes']:.1f} | {row['relative_error']:.1e} | {row['accuracy']:.1f} |"
        for row in measured["rows"]
    ]
    note = f"Measured by `python benchmarks/stored.py` on {measured['date']}, {measured['machine']}."
    return "\n".join([START, *lines, "", note, END])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        rows = [measure(dtype, Path(temporary)) for dtype in STORED]
    measured = {"date": date.today().isoformat(), "machine": f"CPU ({platform.machine()})", "rows": rows}
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text.split(START)[0] + block(measured) + text.split(START)[1].split(END, 1)[1])
    print(block(measured))
