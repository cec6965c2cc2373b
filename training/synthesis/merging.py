"""Training data put together: folders in, one folder with the samples of all out, each once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comem_lmms.training.synthesis.store import Sample, SampleFolder, write

from comem_lmms.errors import UserError


def merge(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes the samples of all folders, in order, and returns the manifest.

    Raises:
        UserError: one is no training data, or of another knowledge base than the first, or ``out`` is there.
    """
    parts = [SampleFolder.open(folder) for folder in folders]
    for part in parts:
        if part.knowledge["fingerprint"] != parts[0].knowledge["fingerprint"]:
            given, first = (data.knowledge["fingerprint"][:12] for data in (part, parts[0]))
            raise UserError(
                f"{part.folder} is of knowledge base {given}, {parts[0].folder} of {first}; items are read from one, "
                "so merge data of one base"
            )
    repeated: Counter[str] = Counter()

    def samples() -> Iterator[Sample]:
        seen: set[bytes] = set()
        for part in parts:
            for sample in part:
                if sample.digest in seen:
                    repeated[sample.task] += 1
                else:
                    seen.add(sample.digest)
                    yield sample

    def about() -> dict[str, Any]:
        manifests = [part.manifest for part in parts]
        return {
            "from": "merge",
            "knowledge": parts[0].knowledge,
            "counts": _added([manifest["counts"] for manifest in manifests]),
            "repeated": dict(repeated),
            "sources": manifests,
        }

    return write(out, samples(), about)


def _added(all_counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts by task, of several folders; what is in more than one of them is counted as often."""
    added: dict[str, Any] = {}
    for counts in all_counts:
        for task, counted in counts.items():
            total = added.setdefault(task, {"answers": 0, "kept": 0, "dropped": Counter()})
            total["answers"] += counted["answers"]
            total["kept"] += counted["kept"]
            total["dropped"].update(counted["dropped"])
    return added
