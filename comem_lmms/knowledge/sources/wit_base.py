"""Wikimedia's edition of WIT (``wikimedia/wit_base``): Parquet with images inside, one row an image with all its pages.

https://huggingface.co/datasets/wikimedia/wit_base
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comem_lmms.knowledge.candidates import Candidate, Read, Reject
from comem_lmms.knowledge.sources import wit
from comem_lmms.knowledge.sources.parquet import rows

REPOSITORY = "wikimedia/wit_base"
PAGES = "wit_features"
COLUMNS = ("image", "image_url", "mime_type", "original_width", "original_height", PAGES)
ABOUT = {
    "source": f"{REPOSITORY}, https://huggingface.co/datasets/{REPOSITORY}",
    "licence": "texts: CC BY-SA 4.0; images: each its own, see its page on Wikimedia",
    "attribution": wit.ABOUT["attribution"],
}
_OF_PAGES = ("language", "page_url", "page_title", "context_page_description", "context_section_description")


def read(file: Path, name: str, place: Any) -> Iterator[Read]:
    """An item for each page of each image.

    Args:
        file: Parquet.
        name: what the ids begin with; the number of the row and of the page in it follow.
        place: None, or where to go on: the numbers of rows, and of pages in the next.
    """
    row, seen = place or (0, 0)
    for cells in rows(file, row, COLUMNS):
        if isinstance(cells, Reject):
            yield Read([row + 1, 0], cells)
        else:
            pages = _pages(cells[PAGES])
            for page in range(seen, len(pages)):
                found = _candidate(cells, pages[page])
                if isinstance(found, Reject):
                    found = found._replace(place=f"{file.name}, row {row}, page {page}")
                else:
                    found = found._replace(id=f"{name}:{row}:{page}")
                yield Read([row + 1, 0] if page + 1 == len(pages) else [row, page + 1], found)
        row, seen = row + 1, 0


def _pages(cell: Any) -> list[dict[str, str]]:
    """`datasets` has stored a list of structs both as that and as a struct of lists."""
    if isinstance(cell, dict):
        lists = {name: cell.get(name) or [] for name in _OF_PAGES}
        cell = [
            {name: values[i] if i < len(values) else None for name, values in lists.items()}
            for i in range(max(map(len, lists.values())))
        ]
    return [{name: str(page.get(name) or "") for name in _OF_PAGES} for page in cell or []]


def _candidate(cells: dict[str, Any], page: dict[str, str]) -> Candidate | Reject:
    of_image = {name: str(cells[name] or "") for name in COLUMNS[1:-1]}
    found = wit.candidate({**of_image, **page})
    data = (cells["image"] or {}).get("bytes")
    if isinstance(found, Reject):
        return found
    # The image inside is a thumbnail, of another type where the original is no photo.
    return found._replace(image=data) if data else Reject("", "no_image", of_image["image_url"])
