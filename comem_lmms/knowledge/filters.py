"""What a user wants of a source: candidates in, the name of the filter that leaves one out, or None, out."""

from dataclasses import dataclass

from comem_lmms.errors import UserError
from comem_lmms.knowledge.candidates import Candidate
from comem_lmms.knowledge.pictures import Picture, type_of

_TYPES = ("bmp", "gif", "jpeg", "png", "svg", "tiff", "webp", "xcf")


@dataclass(frozen=True)
class Filters:
    """Each leaves out what does not meet it; None and () leave out nothing.

    Type and size of an image are those that the source declares for the original; where it declares none, those of the
    image itself.

    Attributes:
        language: codes as the source has them.
        image_type: jpeg, png, ...
        min_size: pixels that the shorter side must have.
        min_text, max_text: characters of the text.
    """

    language: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    min_size: int | None = None
    min_text: int | None = None
    max_text: int | None = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.image_type if name not in _TYPES]:
            raise UserError(f"--image-type {unknown[0]!r} is not known; give of {', '.join(_TYPES)}")
        for name in ("min_size", "min_text", "max_text"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise UserError(f"--{name.replace('_', '-')} {value} must be at least 0")

    def of_source(self, candidate: Candidate) -> str | None:
        """Which one leaves out a candidate, by what the source says about it."""
        if self.language and candidate.language not in self.language:
            return "language"
        if self.min_text is not None and len(candidate.text) < self.min_text:
            return "min_text"
        if self.max_text is not None and len(candidate.text) > self.max_text:
            return "max_text"
        if self.image_type and candidate.mime and type_of(candidate.mime) not in self.image_type:
            return "image_type"
        side = _side(candidate)
        return "min_size" if self.min_size is not None and side is not None and side < self.min_size else None

    def of_image(self, candidate: Candidate, picture: Picture) -> str | None:
        """Which one leaves out a candidate, by its image, where the source says nothing about it."""
        if self.image_type and not candidate.mime and picture.type not in self.image_type:
            return "image_type"
        small = self.min_size is not None and min(picture.width, picture.height) < self.min_size
        return "min_size" if small and _side(candidate) is None else None


def _side(candidate: Candidate) -> int | None:
    if candidate.width is None or candidate.height is None:
        return None
    return min(candidate.width, candidate.height)
