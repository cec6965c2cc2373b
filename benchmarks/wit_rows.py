"""Made-up rows in the format of WIT's TSV shards, with the defects that real ones have; the same for the same seed.

For the tests and for benchmarks/knowledge_build.py.
"""

import csv
import gzip
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from comem_lmms.knowledge.sources.wit import COLUMNS, HEADER

LANGUAGES = ("en", "en", "en", "de", "fr", "es", "zh-TW", "ru", "ar", "ja")
# fmt: off
WORDS = (
    "castle", "river", "mountain", "saint", "emperor", "bridge", "genus", "species", "village", "station", "album",
    "painter", "battle", "cathedral", "Schloss", "Fluß", "église", "château", "río", "montaña", "город", "река", "山",
    "川", "寺", "قلعة", "نهر", "Ångström", "naïve", "“quoted”", "5′2″",  # noqa: RUF001
)
# fmt: on
# Kinds of lines that are no item, how often they come, and how the build calls them.
DEFECTS = {
    "open_quote": "broken_quoting",
    "after_quote": "broken_quoting",
    "few_columns": "wrong_columns",
    "many_columns": "wrong_columns",
    "not_utf8": "wrong_encoding",
    "no_text": "no_text",
    "no_image": "no_image",
}


class Line(NamedTuple):
    """One record: its bytes (of several lines, perhaps), the URL of its image, and how it is broken, if it is."""

    data: bytes
    url: str
    defect: str | None


def lines(n: int, images: str, n_images: int, seed: int = 0, broken: float = 0.01) -> Iterator[Line]:
    """Records of a shard.

    Args:
        n: how many.
        images: URL with a ``{}`` for the number of an image.
        n_images: different ones.
        seed: of all that is random.
        broken: share of records with a defect.
    """
    rng = random.Random(seed)
    for row in range(n):
        defect = rng.choice(list(DEFECTS)) if rng.random() < broken else None
        good = cells(rng, row, images.format(rng.randrange(n_images)))
        yield Line(_damaged(good, defect, rng), good["image_url"], defect)


def write(path: Path, records: Iterator[Line] | list[Line]) -> None:
    """A shard, gzipped if its name says so."""
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as shard:
        shard.write(HEADER + b"\n")
        for record in records:
            shard.write(record.data)


def cells(rng: random.Random, row: int, image: str) -> dict[str, str]:
    """Of a record, by column; ``image`` is its URL."""
    language = rng.choice(LANGUAGES)
    title = f"{_text(rng, 2).title()} {row}"
    page = _text(rng, rng.randint(20, 120))
    section = _text(rng, rng.randint(10, 200)) if rng.random() < 0.6 else ""
    if rng.random() < 0.2:
        page = page.replace(" ", "\n", 3)  # paragraphs
    if rng.random() < 0.2:
        page = f'"{page}" is a so-called "{title}"'
    if rng.random() < 0.05:
        section = section.replace(" ", "\t", 1)
    # fmt: off
    values = (
        language, f"https://{language}.wikipedia.org/wiki/{row}", image, title, "", title, _text(rng, 6), _text(rng, 9),
        "", "image/jpeg", str(rng.randint(50, 4000)), str(rng.randint(50, 4000)), "true", "true", "true", page, section,
    )
    # fmt: on
    return dict(zip(COLUMNS, values, strict=True))


def _damaged(cells: dict[str, str], defect: str | None, rng: random.Random) -> bytes:
    if defect == "no_text":
        cells = {**cells, "context_page_description": "", "context_section_description": ""}
    if defect == "no_image":
        cells = {**cells, "image_url": ""}
    values = list(cells.values())
    if defect == "open_quote":  # a writer that does not quote
        values[rng.choice((3, 6, 15))] = f'"{_text(rng, 4)}'
        return "\t".join(value.replace("\n", " ").replace("\t", " ") for value in values).encode() + b"\n"
    if defect == "after_quote":
        values[3] = f'"{cells["page_title"]}" (film)'
        return "\t".join(value.replace("\n", " ").replace("\t", " ") for value in values).encode() + b"\n"
    if defect in ("few_columns", "many_columns"):  # in one line, else it looks like an open quote
        values = [value.replace("\n", " ") for value in values]
        values = values[: rng.randint(1, 16)] if defect == "few_columns" else [*values, "more"]
    data = written(values)
    return data.replace(cells["page_title"].encode(), b"\xff\xfe", 1) if defect == "not_utf8" else data


def written(values: list[str]) -> bytes:
    """A record's cells as a line."""
    line = io.StringIO()
    csv.writer(line, delimiter="\t", lineterminator="\n").writerow(values)
    return line.getvalue().encode()


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))
