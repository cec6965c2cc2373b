"""``comem-lmms data check``: data sets in, a table of what is there, what is missing and what it costs out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from comem_lmms.data import lock, places, store
from comem_lmms.data.sources import File, Source

State = Literal["ready", "partly", "missing"]


class Status(NamedTuple):
    """What there is of one data set; sizes in bytes, images that several data sets share counted for each.

    ``at_least`` says that more is to be downloaded, of which nobody publishes the size.
    """

    name: str
    state: State
    documents: int
    published: int | None
    images: int
    images_needed: int | None
    on_disk: int
    to_download: int
    at_least: bool
    command: str

    @property
    def cells(self) -> tuple[str, ...]:
        """As a row of the table."""
        return (
            self.name,
            self.state,
            f"{self.documents:,}/{_number(self.published)}",
            "inside" if self.images_needed == 0 else f"{self.images:,}/{_number(self.images_needed)}",
            _bytes(self.on_disk),
            self._cost,
            "-" if self.state == "ready" else self.command,
        )

    @property
    def _cost(self) -> str:
        if self.at_least:
            return f"> {_bytes(self.to_download)}" if self.to_download else "unknown"
        return _bytes(self.to_download) if self.to_download else "-"


def check(sources: Iterable[Source]) -> list[Status]:
    """What there is of each, from the files on disk alone."""
    return [_hub(source) if source.kind == "hub" else _files(source) for source in sources]


def table(found: Iterable[Status]) -> str:
    """The rows under a heading."""
    head = ("data set", "state", "documents", "images", "on disk", "to download", "to do")
    rows = [head, *(status.cells for status in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _hub(source: Source) -> Status:
    known = lock.read(source.name)
    tables = [Path(path) for path in known.get("tables", [])]
    there = [path for path in tables if path.is_file()]
    ready = bool(tables) and len(there) == len(tables)
    published = sum(number or 0 for number in source.counts.values())
    return Status(
        name=source.name,
        state="ready" if ready else "partly" if there else "missing",
        documents=published if ready else 0,
        published=published,
        images=0,
        images_needed=0,
        on_disk=sum(path.stat().st_size for path in there),
        to_download=0 if ready else source.size,
        at_least=False,
        command=source.command,
    )


def _files(source: Source) -> Status:
    folder = places.root() / source.name
    written = store.is_written(folder)
    paths = [Path(path) for path in store.image_paths(folder)] if written else []
    images = [path for path in paths if path.is_file()]
    numbers = store.manifest(folder)["splits"] if written else {}
    files = [*source.files, *([source.titles] if source.titles and not places.titles_indexed() else [])]
    there = [file for file in files if _path(file).is_file()]
    lacking = [file for file in files if not file.optional and not _path(file).is_file()]
    complete = written and len(images) == len(paths)
    ready = complete and (not source.titles or places.titles_indexed())
    published = None if None in source.counts.values() else sum(number or 0 for number in source.counts.values())
    costs = [file.cost - _begun(file) if file.cost else None for file in lacking]
    if not written and source.images and not places.index(source.images.collection).is_file():
        costs.append(source.images.about)
    return Status(
        name=source.name,
        state="ready" if ready else "partly" if written or there or any(map(_begun, lacking)) else "missing",
        documents=sum(numbers.values()),
        published=published,
        images=len(images),
        images_needed=len(paths) if written else None,
        on_disk=sum(path.stat().st_size for path in [*images, *map(_path, there), *folder.rglob("*.arrow")]),
        to_download=sum(cost or 0 for cost in costs),
        at_least=None in costs,
        command=_index_titles(source.titles) if complete and source.titles in there else source.command,
    )


def _index_titles(titles: File | None) -> str:
    return f"comem-lmms link build {_path(titles)} --out {places.titles_index()}" if titles else ""


def _path(file: File) -> Path:
    return places.downloads() / file.name


def _begun(file: File) -> int:
    partial = _path(file).with_name(f"{_path(file).name}.partial")
    return min(partial.stat().st_size, file.cost) if partial.is_file() else 0


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
