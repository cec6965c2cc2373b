"""Images: a PIL image, a path, a URL or the bytes of a file in, an RGB image out; and those of a chat."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from PIL import Image, ImageFile

# What PIL raises for files that are damaged, not images, or far too large.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_STRICT = Lock()


def open_image(image: Image.Image | str | bytes) -> Image.Image:
    """An RGB image; transparency is laid on white, as qwen_vl_utils does.

    Raises:
        IMAGE_ERRORS: the image cannot be read.
    """
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    elif isinstance(image, str):
        from transformers.image_utils import load_image

        image = load_image(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def images_of(chat: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The image parts of a chat, in order."""
    return [part for message in chat for part in message["content"] if part["type"] == "image"]


@contextmanager
def strictly() -> Iterator[None]:
    """Has PIL refuse images that are cut off; lmms-eval, where it has been imported, has told it to accept them."""
    with _STRICT:  # it is one for all threads
        lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = lenient
