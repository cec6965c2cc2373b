"""``kb build`` over made-up rows in WIT's format, with its defects: rows/s, memory, and cost late against early.

    python benchmarks/knowledge_build.py                                    # 1 M rows of text, 20 k with images
    python benchmarks/knowledge_build.py --rows 20000 --image-rows 2000 --items 100000 --out small.json

What a build keeps in memory for each item is the lookups that end it; these are made for as many items as WIT has.

The table goes between the markers in docs/knowledge-build.md. Each build runs in a process of its own, so that its peak
memory is its own. Images are drawn and served by another process of this machine, at no limit of rate; what Wikimedia
would allow is another matter.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import wit_rows
from PIL import Image

from comem_lmms.data.http import Client
from comem_lmms.knowledge import KnowledgeBase, Options, build, lookups, sources
from comem_lmms.knowledge.candidates import Read

MEASURED = Path(__file__).parent / "results/knowledge_build.json"
DOCUMENT = Path(__file__).parents[1] / "docs/knowledge-build.md"
START, END = "<!-- build: written by benchmarks/knowledge_build.py -->", "<!-- end -->"
STEP = 1000  # rows between two looks at the clock
PER_IMAGE = 3  # rows, as in WIT: 37.6 M rows, 11.5 M images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="built as texts alone (%(default)s)")
    parser.add_argument("--image-rows", type=int, default=20_000, help="built with images (%(default)s)")
    parser.add_argument("--items", type=int, default=37_600_000, help="whose lookups are made (%(default)s)")
    parser.add_argument("--broken", type=float, default=0.01, help="share of rows with a defect (%(default)s)")
    parser.add_argument("--folder", type=Path, help="for the rows and the bases; default: a temporary one")
    parser.add_argument("--out", type=Path, help=f"JSON; default: {MEASURED.name}, and the document")
    parser.add_argument("--child", nargs=3, metavar=("SOURCE", "BASE", "IMAGES"), help=argparse.SUPPRESS)
    parser.add_argument("--lookups", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return _serve()
    if arguments.lookups:
        return _lookups(arguments.lookups, arguments.items)
    if arguments.child:
        return _measure(*map(Path, arguments.child[:2]), images=arguments.child[2] == "yes")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = [
            _part(Path(folder), "texts", arguments.rows, arguments.broken),
            _part(Path(folder), "images", arguments.image_rows, arguments.broken),
        ]
        command = [sys.executable, __file__, "--lookups", f"{folder}/lookups", "--items", str(arguments.items)]
        made = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    about = {
        "date": str(date.today()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    record = {**about, "builds": results, "lookups": made}
    (arguments.out or MEASURED).write_text(json.dumps(record, indent=1) + "\n")
    print(block(record))
    if not arguments.out:
        text = DOCUMENT.read_text()
        DOCUMENT.write_text(text.split(START)[0] + block(record) + text.split(END)[1])


def block(record: dict[str, Any]) -> str:
    """The part of the document between the markers."""
    made = record["lookups"]
    return (
        f"{START}\n{table(record['builds'])}\n\nThe lookups of {made['items']:,} items, as many as WIT has, take "
        f"{made['seconds']:,.0f} s, {made['peak_mb']:,.0f} MB of memory at most, and {made['size_mb']:,.0f} MB on "
        f"disk.\n\nMeasured by `python benchmarks/knowledge_build.py` on {record['date']}, {record['machine']}, Python "
        f"{record['python']}.\n{END}"
    )


def table(results: list[dict[str, Any]]) -> str:
    """A row a build."""
    columns = {
        "rows": "rows",
        "items": "items",
        "images": "images",
        "rejects": "rejects",
        "rows/s": "rows_per_s",
        "µs/row, first tenth": "early_us",
        "last tenth": "late_us",
        "finish, s": "finish_s",
        "peak MB": "peak_mb",
        "size MB": "size_mb",
    }
    lines = [f"| build | {' | '.join(columns)} |", f"|---{'|--:' * len(columns)}|"]
    lines += [
        f"| {result['build']} | {' | '.join(f'{result[name]:,.0f}' for name in columns.values())} |"
        for result in results
    ]
    return "\n".join(lines)


def _part(folder: Path, name: str, rows: int, broken: float) -> dict[str, Any]:
    """Writes rows, has them built, and returns what that took."""
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        source, base = folder / f"{name}.tsv.gz", folder / f"{name}-kb"
        wit_rows.write(source, wit_rows.lines(rows, f"{url}/{{}}.jpg", max(1, rows // PER_IMAGE), broken=broken))
        command = [sys.executable, __file__, "--child", str(source), str(base), "yes" if name == "images" else "no"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        server.kill()
    size = sum(path.stat().st_size for path in base.rglob("*") if path.is_file())
    shutil.rmtree(base)
    return {"build": name, **json.loads(done.stdout), "size_mb": size / 1e6}


def _measure(file: Path, base: Path, images: bool) -> None:
    source = sources.find(str(file))
    clock: list[float] = []

    def timed(file: Path, name: str, place: Any) -> Iterator[Read]:
        for number, read in enumerate(source.reader(file, name, place)):
            if number % STEP == 0:
                clock.append(time.perf_counter())
            yield read
        clock.append(time.perf_counter())

    manifest = build(replace(source, reader=timed), base, Options(images=images), Client(pause=0.0))
    end = time.perf_counter()
    tenth = max(1, (len(clock) - 1) // 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    KnowledgeBase.open(base)
    measured = {
        **{name: manifest[name] for name in ("rows", "items", "images")},
        "rejects": sum(manifest["rejects"].values()),
        "rows_per_s": manifest["rows"] / (end - clock[0]),
        "early_us": (clock[tenth] - clock[0]) / (tenth * STEP) * 1e6,
        "late_us": (clock[-2] - clock[-2 - tenth]) / (tenth * STEP) * 1e6,
        "finish_s": end - clock[-1],  # the last chunk, the lookups and the manifest
        "peak_mb": peak / 1e6,
    }
    print(json.dumps(measured))


class _Items:
    """What `lookups.make` asks of the table of items: three to an image, ids as long as WIT's."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for start in range(0, self._n, 1024):
            rows = range(start, min(start + 1024, self._n))
            yield pa.RecordBatch.from_pydict(
                {
                    "id": [f"train-0-of-10:{row:09}" for row in rows],
                    "language": ["en"] * len(rows),
                    "image": [row // PER_IMAGE for row in rows],
                    "key": [row.to_bytes(32, "little") for row in rows],
                }
            )


def _lookups(folder: Path, n: int) -> None:
    start = time.perf_counter()
    lookups.make(folder, _Items(n), n * len("train-0-of-10:000000000"), -(-n // PER_IMAGE))  # type: ignore[arg-type]
    measured = {
        "items": n,
        "seconds": time.perf_counter() - start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "size_mb": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
    }
    print(json.dumps(measured))


def _serve() -> None:
    """Photos of noise, 500 pixels wide, one for each number; runs until it is killed."""
    pool = [Image.effect_noise((500, 375), 40 + i).convert("RGB") for i in range(8)]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = Random(self.path).randrange(1 << 24)
            image = pool[number % len(pool)].copy()
            image.paste((number >> 16, number >> 8 & 255, number & 255), (50, 50, 250, 250))
            buffer = BytesIO()
            image.save(buffer, "JPEG", quality=60)
            self.send_response(200)
            self.send_header("Content-Length", str(buffer.tell()))
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
