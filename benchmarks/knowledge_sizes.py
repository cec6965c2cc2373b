"""What bases of several sizes cost, worked out from what two other benchmarks measured.

    python benchmarks/knowledge_build.py
    python benchmarks/knowledge_search.py --sizes 100000 1000000
    python benchmarks/knowledge_search.py --device cuda --sizes 1000000 --types flat ivf --images 512 --workers 14
    python benchmarks/knowledge_sizes.py

The table goes between the markers in docs/knowledge.md. Nothing is measured here.
"""

import json
import re
from pathlib import Path
from typing import Any

from comem_lmms.retrieval.choosing import EXACT, choose

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/knowledge.md"
START, END = "<!-- sizes: written by benchmarks/knowledge_sizes.py -->", "<!-- end -->"

ROWS, IMAGES = 37_600_000, 11_500_000  # of WIT
BASES = {
    "100,000 rows": 100_000,
    "1 % of WIT": ROWS // 100,
    "2 M rows, as the paper's": 2_000_000,
    "all of WIT": ROWS,
}
SOURCE = 25e9 / ROWS  # bytes of WIT's files
IMAGE = 330 * 0.93e9 / 6_480_000  # bytes: wit_base's files by its images, which are 300 pixels wide
PER_SECOND = 10  # images fetched from one host
DIMENSION = 768  # of ViT-L-14
MEMORY = 32e9  # bytes that the index may take


def block(built: dict[str, Any], searched: dict[str, Any], on_gpu: dict[str, Any]) -> str:
    """The part of the document between the markers."""
    texts, images = built["builds"]
    lines = [
        "| base | rows | images | WIT's files, GB | images fetched | built | texts, GB | images, GB | embedded | "
        "on a GPU | embeddings, GB | index | indexed | on a GPU |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for name, rows in BASES.items():
        n = round(rows * IMAGES / ROWS)
        of_texts = texts["size_mb"] * 1e6 / texts["items"] * rows
        chosen = choose("auto", n, DIMENSION, MEMORY)
        cells = [
            f"{rows:,}",
            f"{n:,}",
            f"{SOURCE * rows / 1e9:.1f}",
            duration(n / PER_SECOND),
            duration(rows / images["rows_per_s"]),
            f"{of_texts / 1e9:.2f}",
            f"{IMAGE * n / 1e9:.1f}",
            *(duration(n / by["embedding"]["per_second"]) for by in (searched, on_gpu)),
            f"{2 * DIMENSION * n / 1e9:.2f}",
            chosen.factory,
            *(duration(indexing(n, chosen.factory, by["indexes"])) for by in (searched, on_gpu)),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Worked out by `python benchmarks/knowledge_sizes.py` from what `knowledge_build.py` ({built['date']}, "
        f"{built['machine']}) measured, {images['rows_per_s']:,.0f} rows/s with images (from a server without limits), "
        f"{texts['rows_per_s']:,.0f} without, and `knowledge_search.py`, "
        f"{_embedding(searched)} and {_embedding(on_gpu)}, and the indexes of "
        f"{max(row['vectors'] for row in searched['indexes']):,} vectors, by vectors times lists.",
    ]
    return "\n".join([START, *lines, END])


def indexing(n: int, factory: str, indexes: list[dict[str, Any]]) -> float:
    """Seconds, by the largest index of the kind: a vector is compared with the centre of every list."""
    of_kind = [row for row in indexes if (row["build"]["factory"] == EXACT) == (factory == EXACT)]
    measured = max(of_kind, key=lambda row: row["vectors"])
    lists = _lists(factory) / _lists(measured["build"]["factory"])
    return measured["build"]["seconds"] * lists * n / measured["vectors"]


def _embedding(searched: dict[str, Any]) -> str:
    embedding = searched["embedding"]
    rate = f"{embedding['per_second']:.3g} images/s by {embedding['clip']}"
    ahead = f", {embedding['workers']} processes decoding" if embedding["workers"] else ""
    return f"{rate} ({searched['date']}, {searched['machine']}{ahead})"


def _lists(factory: str) -> int:
    return int(found[1]) if (found := re.match(r"IVF(\d+)", factory)) else 1


def duration(seconds: float) -> str:
    """In the unit that makes it short."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"


def measured() -> list[dict[str, Any]]:
    """What was measured: building, embedding and indexing on a processor, and on a GPU."""
    names = ("knowledge_build", "knowledge_search", "knowledge_search-cuda")
    return [json.loads((ROOT / f"benchmarks/results/{name}.json").read_text()) for name in names]


def main() -> None:
    table = block(*measured())
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text.split(START)[0] + table + text.split(END)[1])
    print(table)


if __name__ == "__main__":
    main()
