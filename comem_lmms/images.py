"""Images: a PIL image, a path, a URL or the bytes of a file in, an RGB image out."""

import io

from PIL import Image

# What PIL raises for files that are damaged, not images, or far too large.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


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
