"""``comem-lmms data check``: data sets in, a table of what is there, what is missing and what it costs out."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from comem_lmms.data import hub, lock, places, store
from comem_lmms.data.prepare import located, read
from comem_lmms.data.sources import File, Images, Source
from comem_lmms.errors import UserError
from comem_lmms.files import readable_size

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
            readable_size(self.on_disk),
            self._cost,
            "-" if self.state == "ready" else self.command,
        )

    @property
    def _cost(self) -> str:
        if self.at_least:
            return f"> {readable_size(self.to_download)}" if self.to_download else "unknown"
        return readable_size(self.to_download) if self.to_download else "-"


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
    """In the cache of `datasets`, whether `prepare` put it there or lmms-eval."""
    there = hub.cached(source, lock.read(source.name).get("commit") or source.revision)
    documents = {split: there.documents.get(split, 0) if there else 0 for split in source.counts}
    tables = [table for table in there.tables if table.is_file()] if there else []
    ready = there is not None and len(tables) == len(there.tables) and documents == source.counts
    fetched = hub.fetched(source)
    return Status(
        name=source.name,
        state="ready" if ready else "partly" if tables or fetched else "missing",
        documents=sum(documents.values()),
        published=sum(number or 0 for number in source.counts.values()),
        images=0,
        images_needed=0,
        on_disk=sum(table.stat().st_size for table in tables) + fetched,
        to_download=0 if ready else max(0, source.size - fetched),
        at_least=False,
        command=source.command,
    )


def _files(source: Source) -> Status:
    assert source.images is not None
    folder = places.root() / source.name
    written = store.is_written(folder)
    numbers = store.manifest(folder)["splits"] if written else {}
    wanted, images = _written_images(folder) if written else _found_images(source, source.images)
    files = [*source.files, *([source.titles] if source.titles and not places.titles_indexed() else [])]
    there = [file for file in files if _path(file).is_file()]
    lacking = [file for file in files if not file.optional and not _path(file).is_file()]
    lacking_images = None if wanted is None else wanted - len(images)
    costs = [*map(_cost, lacking), *_image_costs(source.images, lacking_images)]
    complete = written and lacking_images == 0
    ready = complete and (not source.titles or places.titles_indexed())
    begun = there or images or any(map(_begun, [*lacking, *source.images.archives.values()]))
    published = None if None in source.counts.values() else sum(number or 0 for number in source.counts.values())
    return Status(
        name=source.name,
        state="ready" if ready else "partly" if written or begun else "missing",
        documents=sum(numbers.values()),
        published=published,
        images=len(images),
        images_needed=wanted,
        on_disk=sum(path.stat().st_size for path in [*images, *map(_path, there), *folder.rglob("*.arrow")]),
        to_download=sum(cost or 0 for cost in costs),
        at_least=None in costs,
        command=_command(source, complete, lacking_images),
    )


def _command(source: Source, complete: bool, lacking_images: int | None) -> str:
    if complete and source.titles and _path(source.titles).is_file():
        return f"comem-lmms link build {_path(source.titles)} --out {places.titles_index()}"
    walked = source.images is not None and places.index(source.images.collection).is_file()
    return source.again if lacking_images == 0 or (lacking_images is None and walked) else source.command


def _written_images(folder: Path) -> tuple[int, list[Path]]:
    """How many a data set has, and those that are there."""
    paths = [Path(path) for path in store.image_paths(folder)]
    return len(paths), [path for path in paths if path.is_file()]


def _found_images(source: Source, kept: Images) -> tuple[int | None, list[Path]]:
    """How many a data set will have, if its files are there and say so, and those that `prepare` will find."""
    if any(not file.optional and not _path(file).is_file() for file in source.files):
        return None, []
    paths = [path if (path := _path(file)).is_file() else None for file in source.files]
    try:
        splits = read(source, paths)
    except UserError:  # which `prepare` will say
        return None, []
    wanted = {row["image"] for rows in splits.values() for row in rows}
    single = ((key, kept.file(key)) for key in wanted)
    found = {key: places.images(kept.collection) / file.name for key, file in single if file} | located(kept, wanted)
    return len(wanted), [path for path in found.values() if path.is_file()]


def _image_costs(kept: Images, lacking: int | None) -> list[int | None]:
    """Bytes of what is to be downloaded for images that lack; ``lacking`` is None while their number is unknown."""
    if lacking == 0:
        return []
    unpacked = any(places.index(name).is_file() for name in kept.archives)
    walked = places.index(kept.collection).is_file()
    if kept.archives and not unpacked and not (walked and lacking is None):
        return [_cost(archive) for archive in kept.archives.values()]
    return [None if walked or unpacked else kept.by_hand]


def _cost(file: File) -> int | None:
    """Bytes that are still to be downloaded; None if nobody publishes them."""
    if _path(file).is_file():
        return 0
    return file.cost - _begun(file) if file.cost else None


def _path(file: File) -> Path:
    return places.downloads() / file.name


def _begun(file: File) -> int:
    """Bytes that an interrupted download left, of `http` or of `hub`."""
    path = _path(file)
    found = [path.with_name(f"{path.name}.partial"), *path.with_name(f"{path.name}.hub").rglob("*.incomplete")]
    return min(sum(part.stat().st_size for part in found if part.is_file()), file.cost or sys.maxsize)


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
