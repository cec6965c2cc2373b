"""Where data lies: one folder a data set below one root."""

import os
from pathlib import Path

from comem_lmms.files import user_cache

SPLITS = "dataset_dict.json"  # what `datasets` looks for
MANIFEST = "comem.json"  # what a data set was made of, beside what `datasets` wrote


def root() -> Path:
    """``$COMEM_DATA``, by default ``comem-lmms/data`` in the user's cache folder."""
    if given := os.environ.get("COMEM_DATA"):
        return Path(given).expanduser().absolute()
    return user_cache() / "data"


def downloads() -> Path:
    """Files as they were downloaded."""
    return root() / "downloads"


def images(collection: str) -> Path:
    """Images that were downloaded or extracted."""
    return root() / "images" / collection


def index(collection: str) -> Path:
    """Where each image of a collection was found."""
    return root() / "images" / f"{collection}.parquet"


def lock(name: str) -> Path:
    """What was found of a data set of the Hub when it was first seen."""
    return root() / "lock" / f"{name}.json"


def titles_index() -> Path:
    """OVEN's index of titles, which `comem-lmms link build` writes."""
    return root() / "titles"


def titles_indexed() -> bool:
    """Whether ``comem-lmms link build`` has written it."""
    return (titles_index() / "manifest.json").is_file()
