"""``comem-lmms kb stats``: a knowledge base in, what is in it, in words, out."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping

from PIL import Image
from tqdm import tqdm

from comem_lmms.images import IMAGE_ERRORS
from comem_lmms.knowledge.base import KnowledgeBase
from comem_lmms.knowledge.building import MISNAMED

SAMPLE = 20_000  # images that are looked at
_RUN = 64  # of them one after the other, which lie together
_SHOWN = 12


def stats(knowledge: KnowledgeBase) -> dict[str, str]:
    """Names and values; reads all texts and the headers of some images, and holds neither."""
    manifest = knowledge.manifest
    languages: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    with tqdm(total=len(knowledge), desc="Reading", unit=" items", unit_scale=True, disable=None) as bar:
        for language, text in knowledge.texts():
            languages[language or "not told"] += 1
            lengths[len(text)] += 1
            bar.update()
    types: Counter[str] = Counter()
    sides: Counter[int] = Counter()
    for data in _sample(knowledge):
        try:
            with Image.open(io.BytesIO(data)) as image:
                types[(image.format or "?").lower()] += 1
                sides[min(image.size)] += 1
        except IMAGE_ERRORS:
            types["unreadable"] += 1
    looked_at = sum(types.values())
    of = "" if looked_at == knowledge.n_images else f" (of {looked_at:,} looked at)"
    found = {
        "items": f"{len(knowledge):,}, {knowledge.n_pictured:,} with an image",
        "images": f"{knowledge.n_images:,}",
        "languages": f"{len(languages):,}: {_most(languages)}",
        "characters of a text": _spread(lengths),
        "types of images": _most(types) + of,
        "shorter side, pixels": _spread(sides) + of,
        "rows of the source": f"{manifest['rows']:,}" if "rows" in manifest else "not told",
        "left out by filters": _most(manifest.get("left_out", {})),
        "rejects": _most(manifest.get("rejects", {})),
        "misnamed images": f"{manifest.get(MISNAMED, 0):,}",
    }
    names = ("source", "revision", "licence", "attribution")
    about: dict[str, str] = {name: str(manifest[name]) for name in names if name in manifest}
    return {**found, **about, "made by": str(manifest.get("made_by")), "fingerprint": knowledge.fingerprint}


def _sample(knowledge: KnowledgeBase) -> Iterator[bytes]:
    """The files of all images, or of some from all over the base."""
    runs = max(1, knowledge.n_images // _RUN)
    step = max(1, runs * _RUN // SAMPLE)
    for start in range(0, knowledge.n_images, _RUN * step):
        yield from knowledge.image_files(start, min(start + _RUN, knowledge.n_images))


def _most(counts: Mapping[str, int]) -> str:
    shown = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = len(shown) - _SHOWN
    words = [f"{name} {count:,}" for name, count in shown[:_SHOWN]] + ([f"{rest} more"] if rest > 0 else [])
    return ", ".join(words) or "none"


def _spread(counts: Mapping[int, int]) -> str:
    """Least, median and most."""
    if not counts:
        return "none"
    values, seen, half = sorted(counts), 0, sum(counts.values()) / 2
    for value in values:
        seen += counts[value]
        if seen >= half:
            break
    return f"{values[0]:,} to {values[-1]:,}, median {value:,}"
