"""Takes the pictures of docs/report.md and docs/explorer.md: pages of a folder of results, in a window and on a phone.

    pip install playwright && playwright install chromium      # or a Chromium of the system
    python benchmarks/screenshots.py results/microseek

writes them into docs/.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from comem_lmms import explorer
from comem_lmms.report import build, write

DOCS = Path(__file__).parents[1] / "docs"
SHOTS = {"report-light": (1100, 560, "light"), "report-dark": (1100, 560, "dark"), "report-phone": (390, 560, "light")}
# With what a question is scrolled to.
EXPLORED = {
    "explorer-light": (1200, 760, "light", "a"),
    "explorer-dark": (1200, 760, "dark", "h2:text('Answers')"),
    "explorer-phone": (390, 760, "light", "a"),
}


def main() -> None:
    results = sys.argv[1]
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder:
        chromium = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        source = Path(folder, "page.html")
        source.write_text(write(build(results, baseline="baseline"), "html"), encoding="utf-8")
        for name, (width, height, scheme) in SHOTS.items():
            page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(source.as_uri())
            page.screenshot(path=DOCS / f"{name}.png")
        source = explorer.build(results, Path(folder, "site")).page
        for name, (width, height, scheme, place) in EXPLORED.items():
            page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(source.as_uri())
            page.locator("#verdict").select_option("some")
            page.locator("[role=option]").nth(2).click()
            page.locator(f"#content {place}").evaluate("element => element.scrollIntoView()")
            page.wait_for_load_state("networkidle")
            page.screenshot(path=DOCS / f"{name}.png")
        chromium.close()


if __name__ == "__main__":
    main()
