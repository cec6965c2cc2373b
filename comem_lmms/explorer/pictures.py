"""Pictures in, small WebP files out, each stored once, by what it shows."""

import hashlib
from pathlib import Path

from PIL import Image

from comem_lmms.errors import one_line
from comem_lmms.images import IMAGE_ERRORS, open_image

FOLDER = "images"
LONGEST = 512  # pixels; what is smaller stays as it is
_QUALITY = 80


class Pictures:
    """The pictures of a site.

    Args:
        site: its folder; the files lie below in ``images``.
    """

    def __init__(self, site: Path) -> None:
        self._folder = site / FOLDER
        self._folder.mkdir()
        self._told: dict[str, tuple[str, str]] = {}

    def add(self, picture: Image.Image | bytes) -> tuple[str, str]:
        """The name of the file that shows a picture, and "", or "" and why there is none.

        Args:
            picture: decoded, or the bytes of a file.
        """
        key = hashlib.sha256(_content(picture)).hexdigest()[:32]
        if key not in self._told:
            self._told[key] = self._write(picture, f"{key}.webp")
        return self._told[key]

    def _write(self, picture: Image.Image | bytes, name: str) -> tuple[str, str]:
        try:
            small = open_image(picture)
            small.thumbnail((LONGEST, LONGEST))
        except IMAGE_ERRORS as error:
            return "", f"the picture cannot be read ({one_line(error)})"
        small.save(self._folder / name, "WEBP", quality=_QUALITY)
        return name, ""


def _content(picture: Image.Image | bytes) -> bytes:
    if isinstance(picture, bytes):
        return picture
    return f"{picture.mode} {picture.size} ".encode() + picture.tobytes()
