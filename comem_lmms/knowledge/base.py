"""A knowledge base on disk: rows and images by number, whatever its size.

A folder holds ``items/*.parquet`` and ``images/*.parquet`` (each image once, whatever the number of its items; page
checksums on), ``lookups/*.npy`` and ``manifest.json``, which says what is in them and where it is from. Its fingerprint
is computed from the rows, not from the files, so the same content has the same fingerprint whatever wrote it.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from comem_lmms.errors import UserError
from comem_lmms.files import check_fields, read_json, sha256
from comem_lmms.images import IMAGE_ERRORS, open_image
from comem_lmms.knowledge import lookups
from comem_lmms.knowledge.rows import IMAGES, ITEMS, Row, same_title
from comem_lmms.knowledge.shards import Shards
from comem_lmms.knowledge.writing import FORMAT, MANIFEST, STATE, Writer, check_sizes
from comem_lmms.records import KnowledgeItem

SMALL = 1 << 26  # bytes; a base of that size or less is read and checked whenever it is opened


class KnowledgeBase:
    """Items by row number, in the order they were written.

    Attributes:
        folder: where it lies.
        manifest: what `Writer.finish` wrote.
        fingerprint: SHA-256 over ids, languages and keys of all rows.
        n_images: different images.
        n_pictured: items with an image.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.fingerprint = str(manifest["fingerprint"])
        self.n_images = int(manifest["images"])
        self._remedy = "build or copy the base again"
        self._items = self._table("items", ITEMS)
        self._images = self._table("images", IMAGES)
        self._lookups = lookups.load(folder / lookups.FOLDER, self._remedy)
        self.n_pictured = len(self._lookups.by_image)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> KnowledgeItem:
        """The item of a row, its image decoded.

        Raises:
            UserError: the item's image cannot be read.
        """
        stored = self.row(row)
        number = self.image_of(row)
        image = None if number is None or stored.image is None else self._decode(number, stored.image)
        return KnowledgeItem(stored.id, stored.title, stored.text, image)

    def row(self, row: int) -> Row:
        """The item of a row as it is stored."""
        cells = self._items[row]
        image = None if cells["image"] is None else self._images[cells["image"]]["image"]["bytes"]
        return Row(cells["id"], cells["title"], cells["text"], image, cells["language"], cells["source"])

    def words(self, row: int) -> tuple[str, str]:
        """Title and text of a row; its image is not read."""
        cells = self._items[row]
        return cells["title"], cells["text"]

    def id(self, row: int) -> str:
        """The id of a row."""
        return self._lookups.id(row)

    def find(self, id_: str) -> int | None:
        """The row of an id, None if the base has no such item."""
        return self._lookups.find(id_)

    def key(self, row: int) -> str:
        """What an item says and shows, as a SHA-256: the same for the same content under another id or elsewhere."""
        return self._lookups.keys[row].tobytes().hex()

    def image_of(self, row: int) -> int | None:
        """The number of a row's image, None for an item without one."""
        number = int(self._lookups.image_of[row])
        return None if number < 0 else number

    def rows_of(self, image: int) -> list[int]:
        """The rows that an image serves, ascending."""
        start, stop = self._lookups.image_offsets[image : image + 2]
        return list(map(int, self._lookups.by_image[start:stop]))

    def images(self, start: int = 0, stop: int | None = None) -> Iterator[Image.Image]:
        """The images from number ``start`` to before ``stop``, decoded.

        Raises:
            UserError: one cannot be read.
        """
        for number, data in enumerate(self.image_files(start, stop), start):
            yield self._decode(number, data)

    def image_files(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The files of the images from number ``start`` to before ``stop``."""
        for batch in self._images.batches(["image"], start, stop):
            for cells in batch.to_pylist():
                yield cells["image"]["bytes"]

    def texts(self) -> Iterator[tuple[str, str]]:
        """The language and text of each row."""
        for batch in self._items.batches(["language", "text"]):
            columns = batch.to_pydict()
            yield from zip(columns["language"], columns["text"], strict=True)

    def titled(self, wanted: Collection[str]) -> dict[str, list[int]]:
        """The rows of each of some titles, as `same_title` makes them, ascending; reads all titles."""
        found: dict[str, list[int]] = {title: [] for title in wanted}
        titles = (title for batch in self._items.batches(["title"]) for title in batch.column("title").to_pylist())
        for row, title in enumerate(titles):
            if (rows := found.get(same_title(title))) is not None:
                rows.append(row)
        return found

    def verify(self) -> None:
        """Reads every file and compares it with the manifest.

        Raises:
            UserError: one is not what it was.
        """
        for name, (_, _, expected) in self.manifest["files"].items():
            if (found := sha256(self.folder / name)) != expected:
                raise UserError(
                    f"knowledge base {self.folder}: {name} is damaged or was changed afterwards (SHA-256 "
                    f"{found[:12]}, in {MANIFEST} {str(expected)[:12]}); {self._remedy}"
                )

    @classmethod
    def open(cls, folder: str | Path) -> "KnowledgeBase":
        """Opens a folder that a `Writer` finished; the files of a small base are compared with the manifest.

        Raises:
            UserError: the folder or a file is missing, of another format, or not what the manifest describes.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            remedy = "give the folder of one"
            if (folder / STATE).is_file():
                remedy = "it is not finished, run the command that began it again"
            raise UserError(f"no knowledge base at {folder}: {MANIFEST} is missing; {remedy}")
        manifest = read_json(folder / MANIFEST)
        if not {"items", "images"} & manifest.keys():
            raise UserError(f"{folder} holds something else than a knowledge base; give the folder of one")
        if manifest.get("format") != FORMAT or not isinstance(manifest.get("files"), dict):
            raise UserError(
                f"knowledge base {folder} has format {manifest.get('format')!r}, this version reads {FORMAT}; build it "
                "again"
            )
        check_fields(folder / MANIFEST, manifest, "items", "images", "fingerprint")
        total = check_sizes(folder, manifest["files"], "build or copy the base again")
        base = cls(folder, manifest)
        if total <= SMALL:
            base.verify()
        return base

    @classmethod
    def create(cls, folder: str | Path, rows: Iterable[Row], **about: Any) -> "KnowledgeBase":
        """Writes rows as a knowledge base, in place of one that is there; ``about`` goes into the manifest.

        Raises:
            UserError: two rows have the same id, or a field is of the wrong kind.
        """
        with closing(Writer(Path(folder), {}, replace=True)) as writer:
            for row in rows:
                writer.add(row)
            writer.commit()
            writer.finish(**about)
        return cls.open(folder)

    def _table(self, name: str, schema: Any) -> Shards:
        files = {path: about for path, about in self.manifest["files"].items() if path.startswith(f"{name}/")}
        return Shards(
            [self.folder / path for path in files], [rows for rows, _, _ in files.values()], schema, self._remedy
        )

    def _decode(self, number: int, image: bytes) -> Image.Image:
        try:
            return open_image(image)
        except IMAGE_ERRORS as error:
            id_ = self.id(self.rows_of(number)[0])
            raise UserError(
                f"item {id_!r} of knowledge base {self.folder} has an unreadable image ({error}); "
                "replace or remove the item and build the base again"
            ) from error
