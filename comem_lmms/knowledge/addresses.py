"""Where an image is asked for: a URL as a source has it in, one that a host can be sent out.

Originals on upload.wikimedia.org may be hundreds of megabytes, so a thumbnail is asked for. Since 2026 only some widths
are served: https://www.mediawiki.org/wiki/Common_thumbnail_sizes, https://phabricator.wikimedia.org/T414805
"""

import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

from comem_lmms.errors import UserError

WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)  # pixels
WIDTH = 500
UPLOADS = "upload.wikimedia.org"
_ORIGINAL = re.compile(r"(/\w+/[\w-]+)(/[0-9a-f]/[0-9a-f]{2}/)([^/]+)")
_LONG = 160  # bytes of a name; MediaWiki's abbrvThreshold as Wikimedia sets it
# What is put before the width, and the ending that the thumbnail gets.
_RENDERED = {
    "svg": ("", ".png"),
    "tif": ("lossy-page1-", ".jpg"),
    "tiff": ("lossy-page1-", ".jpg"),
    "webp": ("", ".png"),
    "xcf": ("", ".png"),
}


def check_width(width: int) -> None:
    """Raises:
    UserError: Wikimedia has no thumbnails of that width.
    """
    if width not in WIDTHS:
        near = min(WIDTHS, key=lambda served: abs(served - width))
        raise UserError(
            f"--image-width {width} is refused by Wikimedia, which serves {', '.join(map(str, WIDTHS))}; give {near}"
        )


def is_wikimedia(url: str) -> bool:
    """Whether the host is one of the Wikimedia Foundation, which wants to know whom to write to."""
    host = urlsplit(url).hostname or ""
    return f".{host}".endswith((".wikimedia.org", ".wikipedia.org"))


def sendable(url: str) -> str | None:
    """The URL with what is not ASCII escaped, None if it is none of http or https."""
    try:
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            return None
        host = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
    except ValueError:
        return None
    path, query = (quote(part, safe="%/:=&?~+!$,;'@()*[]") for part in (parts.path, parts.query))
    return f"{parts.scheme}://{host}{path or '/'}{f'?{query}' if query else ''}"


def thumbnail(url: str, width: int, original_width: int | None) -> str:
    """The URL of a thumbnail of a Wikimedia original; any other, or one that is small or unmeasured, as it is."""
    parts = urlsplit(url)
    original = _ORIGINAL.fullmatch(parts.path)
    if parts.hostname != UPLOADS or original is None:
        return url
    project, folders, name = original.groups()
    ending = name.rpartition(".")[2].lower()
    # Vector graphics have no size of their own; others are never made larger, and asking for that is an error.
    if ending != "svg" and (original_width is None or original_width <= width):
        return url
    before, after = _RENDERED.get(ending, ("", ""))
    shown = f"thumbnail.{ending}" if len(unquote_to_bytes(name)) > _LONG else name
    return f"{parts.scheme}://{parts.netloc}{project}/thumb{folders}{name}/{before}{width}px-{shown}{after}"
