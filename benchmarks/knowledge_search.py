r"""Indexes over made-up vectors, exact beside chosen, and embedding of made-up photographs: sizes in, tables out.

    python benchmarks/knowledge_search.py --sizes 100000 1000000
    python benchmarks/knowledge_search.py --sizes 20000 --images 256 --out small.json   # a trial; the document stays
    python benchmarks/knowledge_search.py --sizes 10000000 --types auto --images 0 \
        --out benchmarks/results/knowledge_search-10m.json
    python benchmarks/knowledge_search.py --device cuda --sizes 1000000 --types flat ivf --images 4096 --workers 14

Vectors are unit vectors of 768 dimensions in clusters: a centre is Gaussian with a variance of 1/i in dimension i, a
vector is a centre plus 0.6 times such a Gaussian; there is a centre for 100 vectors, and the share of a cluster falls
with its rank r as 1 / (r + 10). Queries are further vectors of the same kind, which no index has seen.

Embedding is measured with random weights. Every part runs in a process of its own, so that its peak memory is its own.
The tables go between the markers in docs/knowledge-index.md.
"""

import argparse
import io
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from comem_lmms.files import sha256, write_json
from comem_lmms.knowledge import KnowledgeBase, Row
from comem_lmms.retrieval import ClipEmbedder, Embeddings, Index, embed
from comem_lmms.retrieval.choosing import nearest
from comem_lmms.retrieval.embeddings import SHARD, file_name, fingerprint

Part = dict[str, Any]

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "benchmarks/results/knowledge_search.json"
ON_GPU = MEASURED.with_name("knowledge_search-cuda.json")
DOCUMENT = ROOT / "docs/knowledge-index.md"
START, END = "<!-- search: written by benchmarks/knowledge_search.py -->", "<!-- end -->"
DIMENSION = 768
QUERIES, K, BATCH = 1000, 10, 64
SPECTRUM = (1 + np.arange(DIMENSION, dtype=np.float32)) ** -0.5


@dataclass
class Base:
    """What an index asks of a knowledge base."""

    folder: Path
    n: int
    fingerprint: str = "made up"

    def __len__(self) -> int:
        return self.n


class Clusters:
    """The distribution for n vectors."""

    def __init__(self, n: int) -> None:
        self._centres = _gaussian(np.random.default_rng(0), max(n // 100, 1))
        weights = 1 / (np.arange(len(self._centres)) + 10)
        self._chances = weights / weights.sum()

    def draw(self, seed: int, n: int) -> np.ndarray:
        """(n, 768) float32, rows of length 1."""
        rng = np.random.default_rng(seed)
        vectors = self._centres[rng.choice(len(self._centres), n, p=self._chances)] + 0.6 * _gaussian(rng, n)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _gaussian(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, DIMENSION), np.float32) * SPECTRUM


# ---- what is measured, each part in a process of its own ------------------------------------------------------------


def write(folder: Path, n: int) -> Part:
    """The embeddings, the queries and their exact answers."""
    clusters = Clusters(n)
    (folder / "embeddings").mkdir(parents=True)
    files = {}
    for number, first in enumerate(range(0, n, SHARD)):
        path = folder / "embeddings" / file_name(number)
        np.save(path, clusters.draw(number + 1, min(SHARD, n - first)).astype(np.float16))
        files[path.name] = [path.stat().st_size, sha256(path)]
    about = {"knowledge": Base.fingerprint, "images": n, "dimension": DIMENSION, "shard": SHARD, "files": files}
    model = {"clip": None, "pretrained": None, "clip_fingerprint": None}
    write_json(folder / "embeddings/manifest.json", {**about, **model, "fingerprint": fingerprint(files)})
    queries = clusters.draw(0, QUERIES)
    embeddings = Embeddings.open(Base(folder, n))
    start = time.perf_counter()
    scores, numbers = nearest(embeddings, queries, K)
    seconds = time.perf_counter() - start
    np.savez(folder / "queries.npz", queries=queries, worst=scores[:, -1:], numbers=numbers)
    return {"seconds_of_exact_answers": seconds, "gb": sum(size for size, _ in files.values()) / 1e9}


def build(folder: Path, n: int, kind: str, device: str) -> Part:
    """An index, with all that `comem-lmms kb index` does."""
    start = time.perf_counter()
    about = Index.build(Base(folder, n), kind, device=device).about
    names = ("factory", "search", "recall_at_10")
    seconds = time.perf_counter() - start
    return {**{k: about[k] for k in names}, "seconds": seconds, "gb": about["bytes"] / 1e9, "peak_gb": peak_gb()}


def search(folder: Path, n: int, kind: str, device: str) -> Part:
    """Queries one at a time and 64 at a time."""
    asked = np.load(folder / "queries.npz")
    queries = asked["queries"]
    before, start = _own_gb(), time.perf_counter()
    index = Index.open(Base(folder, n), device)
    opened = time.perf_counter() - start
    index.search(queries[:BATCH], K)
    numbers, together = _timed(index, queries, BATCH)
    own = _own_gb() - before
    few = queries[:100]
    _, alone = _timed(index, few, 1)
    vectors = Embeddings.open(Base(folder, n)).take(np.maximum(numbers, 0).ravel()).reshape(len(queries), K, -1)
    scores = np.einsum("qd,qkd->qk", queries, vectors)
    recall = ((scores >= asked["worst"] - 1e-5) & (numbers >= 0)).mean()
    speeds = {"per_second_alone": len(few) / alone, "per_second_together": len(queries) / together}
    return {**speeds, "recall_at_10": float(recall), "open_seconds": opened, "own_gb": own}


def _timed(index: Index, queries: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    numbers = [index.search(queries[first : first + size], K)[1] for first in range(0, len(queries), size)]
    return np.concatenate(numbers), time.perf_counter() - start


def embedding(folder: Path, n: int, clip: str, device: str, workers: str) -> Part:
    """Photographs of 500 x 375 pixels as JPEG, decoded in turn with the model or ahead of it, and decoded alone."""
    rng = np.random.default_rng(0)
    base = KnowledgeBase.create(folder, (Row(str(i), "", "", _photograph(rng)) for i in range(n)))
    embedder = ClipEmbedder(_untrained(folder.with_name("clip"), clip), device=device)
    embedder.embed([base[0].image] * BATCH)  # what is done once
    start = time.perf_counter()
    for image in base.images():
        embedder.preprocess(image)
    decoding = time.perf_counter() - start
    start = time.perf_counter()
    embed(base, embedder, workers=int(workers))
    seconds = time.perf_counter() - start
    speeds = {"per_second": n / seconds, "decoded_per_second": n / decoding}
    return {"clip": clip, "images": n, "workers": int(workers), **speeds}


def _untrained(folder: Path, clip: str) -> str:
    """A model with random weights, which take as long as others."""
    folder.mkdir()
    save_file(open_clip.create_model(clip).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    write_json(
        folder / "open_clip_config.json",
        {"model_cfg": open_clip.get_model_config(clip), "preprocess_cfg": preprocess},
    )
    return f"local-dir:{folder}"


def _photograph(rng: np.random.Generator) -> bytes:
    small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def peak_gb() -> float:
    """The most memory that this process has had, pages of mapped files among it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # kB on Linux


def _own_gb() -> float:
    """Memory that is no page of a file, and so is not shared by processes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024 / 1e9


PARTS = {part.__name__: part for part in (write, build, search, embedding)}


# ---- the program ----------------------------------------------------------------------------------------------------


def block(*records: Part) -> str:
    """The part of the document between the markers."""
    return "\n".join([START, "\n\n".join(map(table, records)), END])


def table(record: Part) -> str:
    """Markdown of a record."""
    lines = [
        "| vectors | index | build, s | build, peak GB | on disk, GB | search, own GB | queries/s, alone | by 64 | "
        "recall@10 |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["indexes"]:
        made, found = row["build"], row["search"]
        name = " ".join(filter(None, (f"{row['type']}: {made['factory']}", made["search"])))
        lines.append(
            f"| {row['vectors']:,} | {name} | {made['seconds']:.0f} | {made['peak_gb']:.2f} | {made['gb']:.2f} | "
            f"{found['own_gb']:.2f} | {found['per_second_alone']:.1f} | {found['per_second_together']:.1f} | "
            f"{found['recall_at_10']:.3f} |"
        )
    if made := record.get("embedding"):
        share = made["per_second"] / made["decoded_per_second"]
        decoding = f"{100 * share:.1f} % of the time in decoding and preprocessing"
        if made["workers"]:
            decoding = (
                f"{made['workers']} processes decode ahead; one alone does {made['decoded_per_second']:.0f} a second"
            )
        lines += [
            "",
            f"Embedding {made['images']:,} JPEGs of 500 x 375 pixels with a {made['clip']} of random weights, end to "
            f"end: {made['per_second']:.2f} images/s; {decoding}.",
        ]
    lines += ["", f"Measured by `{record['command']}` on {record['date']}, {record['machine']}; {record['versions']}."]
    return "\n".join(lines)


def measure(folder: Path, args: argparse.Namespace) -> Part:
    """All parts; each is printed too, for whoever cannot wait for all."""
    record: Part = {"indexes": []}
    for n in args.sizes:
        place = folder / str(n)
        written = _part("write", place, n)
        for kind in args.types:
            made = _part("build", place, n, kind, args.device)
            found = _part("search", place, n, kind, args.device)
            record["indexes"].append({"vectors": n, "type": kind, "write": written, "build": made, "search": found})
    if args.images:
        record["embedding"] = _part("embedding", folder / "kb", args.images, args.clip, args.device, args.workers)
    return record


def _part(name: str, *values: Any) -> Part:
    print(f"{time.strftime('%H:%M:%S')} {name} {' '.join(map(str, values[1:]))}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--part", name, *map(str, values)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout.strip(), file=sys.stderr, flush=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000], help="vectors (%(default)s)")
    parser.add_argument("--types", nargs="+", default=["flat", "auto"], help="of index (%(default)s)")
    parser.add_argument("--images", type=int, default=64, help="to embed, 0 for none (%(default)s)")
    parser.add_argument("--clip", default="ViT-L-14", help="open_clip's name of an architecture (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images ahead (%(default)s)")
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the files go (4 kB a vector); default: a temporary one")
    parser.add_argument(
        "--out", type=Path, help="JSON; one in benchmarks/results/, as the default, goes into the document"
    )
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        name, folder, n, *values = args.part
        print(json.dumps(PARTS[name](Path(folder), int(n), *values)))
        return
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        record = measure(Path(temporary), args)
    threads = f"{torch.get_num_threads()} threads"
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"CPU ({platform.machine()})"
    record["date"], record["machine"] = date.today().isoformat(), f"{device}, {threads}"
    record["versions"] = f"faiss {faiss.__version__}, torch {version('torch')}, numpy {version('numpy')}"
    record["command"] = " ".join(["python", "benchmarks/knowledge_search.py", *sys.argv[1:]])
    out = args.out or (ON_GPU if args.device.startswith("cuda") else MEASURED)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))
    if out.resolve().parent == MEASURED.parent:
        write_document()


def measured() -> list[Part]:
    """What was measured: on a processor, on a GPU, with other sizes."""
    others = sorted(MEASURED.parent.glob(f"{MEASURED.stem}-*.json"))
    return [json.loads(path.read_text()) for path in (MEASURED, *others)]


def write_document() -> None:
    """Puts what was measured into the document."""
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text.split(START)[0] + block(*measured()) + text.split(START)[1].split(END, 1)[1])


if __name__ == "__main__":
    main()
