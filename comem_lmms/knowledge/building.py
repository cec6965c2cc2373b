"""``comem-lmms kb build``: a source in, a knowledge base with its manifest and rejects out.

A chunk of candidates at a time: filters, then the images that are not there yet, then rows in the order of the source.
Chunks are kept or not as a whole, so a build that was killed at any moment goes on and gives the same base.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from comem_lmms.data.http import Client
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import LOCK, read_json
from comem_lmms.knowledge import addresses, lookups, pictures
from comem_lmms.knowledge.candidates import Candidate, Read, Reject, Source
from comem_lmms.knowledge.fetching import Fetcher
from comem_lmms.knowledge.filters import Filters
from comem_lmms.knowledge.pictures import Problem, inspect, type_of
from comem_lmms.knowledge.rows import Row
from comem_lmms.knowledge.writing import GROUPS, MANIFEST, SPOOL, STATE, StoredImage, Writer

CHUNK = 5000  # candidates
MOST_BYTES = 1 << 27  # of images held in memory
# Names of counts: rows read, images named for another type than theirs, and by filter and by kind of reject.
ROWS, MISNAMED, FILTER, REJECT = "rows", "misnamed_images", "filter.", "reject."

# What a base that is being made, or made again, may lie beside.
PARTS = {LOCK, SPOOL, lookups.FOLDER, *GROUPS, "embeddings", "index"}


@dataclass(frozen=True)
class Options:
    """What decides the result beside the source.

    Attributes:
        filters: what to leave out.
        image_width: pixels of the thumbnails that are asked of Wikimedia.
        images: whether to store images; without them, items are texts.
    """

    filters: Filters = field(default_factory=Filters)
    image_width: int = addresses.WIDTH
    images: bool = True

    def __post_init__(self) -> None:
        addresses.check_width(self.image_width)


def build(
    source: Source,
    folder: Path,
    options: Options | None = None,
    client: Client | None = None,
    connections: int = 2,
    chunk: int = CHUNK,
) -> dict[str, Any]:
    """Makes a base of a source, or goes on making it; returns the manifest.

    Args:
        source: the rows.
        folder: of the base.
        options: what to leave out and what to ask for.
        client: fetches images that are URLs.
        connections: to one host at a time.
        chunk: candidates between two moments from which a killed build goes on.

    Raises:
        UserError: the folder holds another base or other files, the disk is full, the network is gone, or two items
            have the same id.
    """
    options = options or Options()
    asked = {**source.settings, **asdict(options.filters), "image_width": options.image_width, "images": options.images}
    if (finished := _finished(folder, asked)) is not None:
        return finished
    with closing(Writer(folder, asked)) as writer:
        fetcher = Fetcher(client or Client(), folder / SPOOL, connections)
        reads = source.read(writer.position)
        source.release(writer.before, writer.position)  # a killed build may not have come to it
        done = writer.counts.get(ROWS, 0)
        with tqdm(desc="Building", unit=" rows", unit_scale=True, initial=done, disable=None) as bar:
            while reads_of_chunk := _chunk(reads, chunk):
                try:
                    _Chunk(source, writer, fetcher, options).add(reads_of_chunk, bar)
                except OSError as error:
                    raise UserError(
                        f"cannot go on building {folder} ({one_line(error)}); put that right and run the same command "
                        "again, what is built is kept"
                    ) from error
        fetcher.close()
        source.release(writer.position, [len(source.parts)])  # files without rows
        return writer.finish(**source.about, **_summary(writer.counts, options, asked))


def _finished(folder: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a base that was finished with the same options; None if there is none in a folder.

    Raises:
        UserError: the folder holds something else.
    """
    if (folder / MANIFEST).is_file():
        made = read_json(folder / MANIFEST)
        before, now = made.get("options", {}), json.loads(json.dumps(asked))
        if "items" in made and (other := [name for name in {**before, **now} if before.get(name) != now.get(name)]):
            raise UserError(
                f"{folder} holds a finished knowledge base with {other[0]}={before.get(other[0])!r}, not "
                f"{now.get(other[0])!r}; remove it, or name another folder"
            )
        return made if "items" in made else None  # what else it may be, a `Writer` says
    others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if foreign := sorted(name for name in others if name not in PARTS and not name.startswith(STATE)):
        raise UserError(f"{folder} holds no knowledge base, but {foreign[0]}; name a new folder")
    return None


def _chunk(reads: Iterator[Read], size: int) -> list[Read]:
    """The next reads, fewer if they hold large images."""
    chunk, held = [], 0
    for read in islice(reads, size):
        chunk.append(read)
        image = read.found.image if isinstance(read.found, Candidate) else None
        held += len(image) if isinstance(image, bytes) else 0
        if held > MOST_BYTES:
            break
    return chunk


class _Chunk:
    """What is added and counted until the next commit."""

    def __init__(self, source: Source, writer: Writer, fetcher: Fetcher, options: Options) -> None:
        self._source, self._writer, self._fetcher, self._options = source, writer, fetcher, options
        self._reset()

    def add(self, reads: Sequence[Read], bar: Any) -> None:
        """Adds candidates, and keeps them."""
        reads = [read._replace(found=self._prepared(read.found)) for read in reads]
        new = [url for url in self._urls_of(reads) if self._writer.outcome(url) is None]
        left = count(len(new), -1)
        self._fetcher.fetch(new, lambda: bar.set_postfix_str(f"{next(left)} images to fetch"))
        for position, found in reads:
            self._counts[ROWS] += 1
            left_out = self._take(found)
            if isinstance(left_out, Reject):
                self._counts[REJECT + left_out.kind] += 1
                self._rejects.append(left_out._asdict())
            elif left_out:
                self._counts[left_out] += 1
            if self._writer.pending_bytes > MOST_BYTES:
                self._commit(position)
        self._commit(reads[-1].position)
        self._fetcher.forget(new)
        bar.update(len(reads))

    def _urls_of(self, reads: Sequence[Read]) -> dict[str, None]:
        """The URLs of the images of those that will be items if their images can be had."""
        urls: dict[str, None] = {}
        ids: set[str] = set()
        for _, found in reads:
            if isinstance(found, Reject) or self._options.filters.of_source(found):
                continue
            if self._source.ids != "place":
                if found.id in ids or self._writer.claimed(found.id):
                    continue
                ids.add(found.id)
            if isinstance(found.image, str):
                urls[found.image] = None
        return urls

    def _commit(self, position: Any) -> None:
        self._writer.commit(position, self._counts, self._urls, self._rejects)
        self._source.release(self._writer.before, position)
        self._reset()

    def _reset(self) -> None:
        self._counts: Counter[str] = Counter()
        self._urls: dict[str, StoredImage | str] = {}
        self._rejects: list[dict[str, str]] = []

    def _prepared(self, found: Candidate | Reject) -> Candidate | Reject:
        """A candidate with the URL to ask for in place of the source's."""
        if isinstance(found, Reject):
            return found
        if not self._options.images:
            return found._replace(image=None)
        if not isinstance(found.image, str):
            return found
        if (url := addresses.sendable(found.image)) is None:
            return Reject(found.id, "image_bad_url", found.image)
        return found._replace(image=addresses.thumbnail(url, self._options.image_width, found.width))

    def _take(self, found: Candidate | Reject) -> Reject | str | None:
        """Adds an item, or says why it is left out: what is wrong, or the count of a filter."""
        if isinstance(found, Reject):
            return found
        if left_out := self._options.filters.of_source(found):
            return FILTER + left_out
        # Before its image is taken in, which would else be one without an item.
        if self._source.ids != "place" and not self._writer.claim(found.id):
            if self._source.ids == "content":
                return FILTER + "repeated"
            return Reject(found.source, "repeated_id", found.id)
        image = None if found.image is None else self._image(found)
        if isinstance(image, Problem):
            if image.kind.startswith(FILTER):
                return image.kind
            shown = found.image if isinstance(found.image, str) else ""
            return Reject(found.id, image.kind, " ".join(filter(None, (shown, image.detail))))
        self._writer.add(Row(found.id, found.title, found.text, None, found.language, found.source), image)
        return None

    def _image(self, found: Candidate) -> StoredImage | Problem:
        url = found.image if isinstance(found.image, str) else None
        if url is None:
            return self._looked_at(found)
        known = self._urls.get(url) or self._writer.outcome(url)
        if known is None:
            image = self._looked_at(found)
            self._urls[url] = image.kind if isinstance(image, Problem) else image
            return image
        return Problem(known) if isinstance(known, str) else known

    def _looked_at(self, found: Candidate) -> StoredImage | Problem:
        """An image that was not met before, or that comes with its row."""
        image = found.image
        if isinstance(image, str):
            fetched = self._fetcher.result(image)
            if isinstance(fetched, Problem):
                return fetched
            image = fetched
        if isinstance(image, Path):
            try:
                with image.open("rb") as file:
                    data = file.read(pictures.MOST_BYTES + 1)
            except (OSError, ValueError) as error:  # the latter of a name that no file can have
                return Problem("image_missing", one_line(error))
        else:
            data = image or b""
        # What was fetched has been decoded already.
        picture = inspect(data, whole=not isinstance(found.image, str))
        if isinstance(picture, Problem):
            return picture
        if left_out := self._options.filters.of_image(found, picture):
            return Problem(FILTER + left_out)
        name = type_of(str(found.image)) if not isinstance(found.image, bytes) else ""
        self._counts[MISNAMED] += bool(name) and name != picture.type
        return self._writer.image(data)


def _summary(counts: dict[str, int], options: Options, asked: dict[str, Any]) -> dict[str, Any]:
    """Of the counts, for the manifest."""

    def those(beginning: str) -> dict[str, int]:
        return {name.removeprefix(beginning): n for name, n in sorted(counts.items()) if name.startswith(beginning)}

    return {
        "options": asked,
        "rows": counts.get(ROWS, 0),
        "left_out": those(FILTER),
        "rejects": those(REJECT),
        MISNAMED: counts.get(MISNAMED, 0),
    }
