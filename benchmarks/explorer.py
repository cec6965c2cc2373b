"""How large a site of the explorer is and how long it takes to build, open, filter and search.

    pip install playwright && playwright install chromium      # or a Chromium of the system
    python benchmarks/explorer.py results/microseek --questions 10000

repeats the logged samples of a folder under new numbers, so those questions have no pictures of their own.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from comem_lmms.explorer import build
from comem_lmms.report.reading import read_samples


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="of results, with sample logs")
    parser.add_argument("--questions", type=int, default=10_000, help="of each task; default: 10,000")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results, site = Path(temporary, "results"), Path(temporary, "site")
        shutil.copytree(arguments.folder, results, ignore=lambda _, names: [n for n in names if n == "site"])
        for log in results.rglob("*_samples_*.jsonl"):
            repeat(log, arguments.questions)
        start = time.perf_counter()
        built = build(results, site)
        seconds = time.perf_counter() - start
        files = [path for path in site.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(
            f"{built.questions} questions, {len(built.lines)} lines: {len(files)} files, {size / 1e6:.0f} MB", end=", "
        )
        print(f"built in {seconds:.0f} s")
        measure(built.page)


def repeat(log: Path, questions: int) -> None:
    """Writes the samples of a log over and over, up to a number of questions."""
    samples = islice(cycle(read_samples(log)), questions)
    lines = [json.dumps({**sample, "doc_id": number}) for number, sample in enumerate(samples)]
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(source: Path) -> None:
    """Prints seconds from an action until the page shows its result."""
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page()
        steps: dict[str, tuple[Callable[[], object], str]] = {
            "first questions": (lambda: page.goto(source.as_uri()), "document.querySelector('[role=option]') !== null"),
            "whole list": (lambda: None, "!document.getElementById('count').textContent.includes('oading')"),
            "filter": (lambda: page.locator("#verdict").select_option("some"), "true"),
            "first search": (
                lambda: page.locator("#search").fill("nosuchword"),
                "/^0 of [^l]*$/.test(count.textContent)",
            ),
            "open a question": (
                lambda: page.evaluate("location.hash = all.at(-1).id"),
                "document.querySelector('#content .card') !== null",
            ),
        }
        for name, (act, is_done) in steps.items():
            start = time.perf_counter()
            act()
            wait(page, is_done)
            print(f"{name}: {time.perf_counter() - start:.2f} s")
        chromium.close()


def wait(page: Page, is_done: str) -> None:
    """Asks again and again: the page's policy forbids what playwright does to wait within it."""
    while not page.evaluate(is_done):
        time.sleep(0.01)


if __name__ == "__main__":
    main()
