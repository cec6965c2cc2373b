"""A knowledge base on disk: rows of (id, title, text, image bytes) in, `KnowledgeItem`s out.

A folder holds ``items.parquet`` (images inside, page checksums on) and ``manifest.json`` with the number of items and
a fingerprint of their content. The fingerprint is computed from the rows, not from the file, so the same content has
the same fingerprint whatever wrote it, and it is checked whenever the base is opened.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from comem_lmms.errors import UserError
from comem_lmms.files import read_json, write_json
from comem_lmms.images import IMAGE_ERRORS, open_image
from comem_lmms.records import KnowledgeItem

ITEMS = "items.parquet"
MANIFEST = "manifest.json"
# Arrow's extension names make `datasets` and the Hub's viewer show the column as images.
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string()), ("image", _IMAGE)])


class Row(NamedTuple):
    """One item as it is stored: ``image`` holds the bytes of an image file, or None."""

    id: str
    title: str
    text: str
    image: bytes | None


class KnowledgeBase:
    """Items by row number, in the order they were written."""

    def __init__(self, folder: Path, table: pa.Table, manifest: dict[str, object]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fingerprint = str(manifest["fingerprint"])
        self._table = table
        self.ids: list[str] = table["id"].to_pylist()
        self.row_of = {id_: row for row, id_ in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> KnowledgeItem:
        """The item of a row, its image decoded.

        Raises:
            UserError: the item's image cannot be read.
        """
        id_, title, text, image = self.row(row)
        return KnowledgeItem(id_, title, text, self._decode(id_, image))

    def row(self, row: int) -> Row:
        """The item of a row as it is stored."""
        cells = self._table.slice(row, 1).to_pylist()[0]
        return Row(cells["id"], cells["title"], cells["text"], (cells["image"] or {}).get("bytes"))

    def key(self, row: int) -> str:
        """SHA-256 of what an item says and shows: the same for the same content under another id or in another base."""
        return _fingerprint([self.row(row)._replace(id="")])

    def _decode(self, id_: str, image: bytes | None) -> Image.Image | None:
        if image is None:
            return None
        try:
            return open_image(image)
        except IMAGE_ERRORS as error:
            raise UserError(
                f"item {id_!r} of knowledge base {self.folder} has an unreadable image ({error}); "
                "replace or remove the item and build the base again"
            ) from error

    @classmethod
    def open(cls, folder: str | Path) -> "KnowledgeBase":
        """Opens a folder that `create` wrote and checks it against its manifest.

        Raises:
            UserError: the folder or a file is missing, a file is damaged, or the items are not those of the manifest.
        """
        folder = Path(folder)
        for name in (MANIFEST, ITEMS):
            if not (folder / name).is_file():
                raise UserError(f"no knowledge base at {folder}: {name} is missing; give knowledge=FOLDER of one")
        manifest = read_json(folder / MANIFEST)
        try:
            table = pq.read_table(folder / ITEMS, page_checksum_verification=True).select(_SCHEMA.names)
        except (pa.ArrowException, OSError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"knowledge base {folder}: {ITEMS} is damaged ({reason}); build or copy it again"
            ) from error
        found = _fingerprint(_rows(table))
        if found != manifest.get("fingerprint"):
            raise UserError(
                f"knowledge base {folder}: {ITEMS} has fingerprint {found[:12]} but {MANIFEST} says "
                f"{str(manifest.get('fingerprint'))[:12]}; the items were changed afterwards, build the base again"
            )
        return cls(folder, table, manifest)

    @classmethod
    def create(cls, folder: str | Path, rows: Iterable[Row], **about: object) -> "KnowledgeBase":
        """Writes rows as a knowledge base; ``about`` (source, licence, ...) goes into the manifest.

        Raises:
            UserError: two rows have the same id, or a field is of the wrong kind.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [_checked(row) for row in rows]
        ids = [row.id for row in rows]
        if len(set(ids)) < len(ids):
            twice = next(id_ for id_ in ids if ids.count(id_) > 1)
            raise UserError(f"two items have the id {twice!r}; ids of a knowledge base must differ")
        table = pa.Table.from_pylist([_cells(row) for row in rows], schema=_SCHEMA)
        pq.write_table(table, folder / ITEMS, compression="zstd", compression_level=19, write_page_checksum=True)
        manifest = {**about, "items": len(rows), "fingerprint": _fingerprint(rows)}
        write_json(folder / MANIFEST, manifest)
        return cls(folder, table, manifest)


def _checked(row: Row) -> Row:
    """The row, with empty texts for missing ones."""
    row = row._replace(title=row.title or "", text=row.text or "")
    texts, image = (row.id, row.title, row.text), row.image
    if not all(isinstance(text, str) for text in texts) or not (image is None or isinstance(image, bytes)):
        kinds = ", ".join(type(field).__name__ for field in row)
        raise UserError(f"item {row.id!r} is made of {kinds}; give str, str, str, and the image file's bytes or None")
    return row


def _cells(row: Row) -> dict[str, object]:
    image = None if row.image is None else {"bytes": row.image, "path": None}
    return {**row._asdict(), "image": image}


def _rows(table: pa.Table) -> Iterable[Row]:
    for batch in table.to_batches(max_chunksize=1024):
        for cells in batch.to_pylist():
            yield Row(cells["id"], cells["title"], cells["text"], (cells["image"] or {}).get("bytes"))


def _fingerprint(rows: Iterable[Row]) -> str:
    """SHA-256 over every field of every row, each preceded by its length so that fields cannot run together."""
    digest = hashlib.sha256()
    for row in rows:
        for field in row:
            data = field.encode() if isinstance(field, str) else field
            digest.update(b"-" if data is None else len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
