"""Images of unknown origin: the bytes of a file in, what it is or what is wrong with it out."""

import io
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from comem_lmms.errors import one_line
from comem_lmms.images import IMAGE_ERRORS, open_image, strictly

MOST_BYTES = 1 << 26
MOST_PIXELS = 1 << 26  # 200 MB as RGB
# MPO is a JPEG with more pictures behind it, as some cameras write them.
_ENDINGS = {"jpg": "jpeg", "jpe": "jpeg", "mpo": "jpeg", "tif": "tiff", "svg+xml": "svg"}


class Picture(NamedTuple):
    """A file that PIL can read; ``type`` is jpeg, png, ..."""

    type: str
    width: int
    height: int


class Problem(NamedTuple):
    """Why there is no image: a kind to count by, and a word for people."""

    kind: str
    detail: str = ""


def inspect(data: bytes, whole: bool = True) -> Picture | Problem:
    """What a file is; with ``whole``, whether all of it can be decoded, as whoever uses the base will do."""
    if len(data) > MOST_BYTES:
        return Problem("image_too_large", f"more than {MOST_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = (image.format or "").lower()
            picture = Picture(_ENDINGS.get(kind, kind), *image.size)
        if picture.width * picture.height > MOST_PIXELS:
            return Problem("image_too_many_pixels", f"{picture.width} x {picture.height}")
        if whole:
            with strictly():
                open_image(data)
        return picture
    except UnidentifiedImageError:
        return Problem("not_an_image", repr(data[:20]))
    except Image.DecompressionBombError as error:
        return Problem("image_too_many_pixels", one_line(error))
    except IMAGE_ERRORS as error:
        return Problem("image_damaged", one_line(error))


def type_of(name: str) -> str:
    """What a mime type, or the end of a path or URL, says that a file is; "" if nothing."""
    kind = name.rpartition("/")[2] if name.startswith("image/") else PurePosixPath(name).suffix.removeprefix(".")
    return _ENDINGS.get(kind.lower(), kind.lower())
