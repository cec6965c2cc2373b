"""Rows of a knowledge base and how they are stored: the two tables, and the key of what an item says and shows."""

import hashlib
from typing import NamedTuple

import pyarrow as pa

from comem_lmms.errors import UserError

# Arrow's names of the fields make `datasets` and the Hub's viewer show the column as images.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ITEMS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "title", "text", "language", "source")),
        ("image", pa.int64()),  # number of the image, none for items without one
        ("key", pa.binary(32)),
    ]
)
IMAGES = pa.schema([("sha256", pa.string()), ("image", IMAGE)])


class Row(NamedTuple):
    """One item as it is stored.

    Attributes:
        id: unlike any other of the base.
        title: of the page that the text is from.
        text: what the item says.
        image: the bytes of an image file, or None.
        language: of the text, as the source has it; "" if it does not tell.
        source: where the item is from, e.g. a file and a line.
    """

    id: str
    title: str
    text: str
    image: bytes | None
    language: str = ""
    source: str = ""


def checked(row: Row) -> Row:
    """The row, with empty texts for missing ones.

    Raises:
        UserError: a field is of the wrong kind.
    """
    row = Row(row.id, row.title or "", row.text or "", row.image, row.language or "", row.source or "")
    texts = (row.id, row.title, row.text, row.language, row.source)
    if not all(isinstance(text, str) for text in texts) or not (row.image is None or isinstance(row.image, bytes)):
        kinds = ", ".join(type(field).__name__ for field in row[:4])
        raise UserError(f"item {row.id!r} is made of {kinds}; give str, str, str, and the image file's bytes or None")
    return row


def key(title: str, text: str, image_sha256: str | None) -> bytes:
    """SHA-256 of what an item says and shows: the same for the same content under another id or in another base."""
    image = None if image_sha256 is None else bytes.fromhex(image_sha256)
    return digest_of(title.encode(), text.encode(), image).digest()


def same_title(text: str) -> str:
    """A title without what titles of one page may differ in: case of letters, underscores for spaces."""
    return " ".join(text.replace("_", " ").split()).casefold()


def digest_of(*fields: bytes | None) -> "hashlib._Hash":
    """SHA-256 over fields, each preceded by its length so that they cannot run together."""
    digest = hashlib.sha256()
    for field in fields:
        digest.update(b"-" if field is None else len(field).to_bytes(8, "little") + field)
    return digest
