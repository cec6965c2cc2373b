"""What a data set of the Hub was when it was first seen: written down once, compared ever after."""

import hashlib
import logging
import os
from collections.abc import Iterable
from typing import Any

from comem_lmms.data import places
from comem_lmms.data.sources import Source
from comem_lmms.errors import UserError
from comem_lmms.files import read_json, write_json

log = logging.getLogger(__name__)


def fingerprint(ids: Iterable[Any]) -> str:
    """SHA-256 over the ids of documents, in any order."""
    return hashlib.sha256("\n".join(sorted(map(str, ids))).encode()).hexdigest()


def read(name: str) -> dict[str, Any]:
    """What is known of a data set: ``commit``, and for each of ``splits`` the number and fingerprint of its ids."""
    path = places.lock(name)
    return read_json(path) if path.is_file() else {}


def write(name: str, content: dict[str, Any]) -> None:
    """Keeps what is known of a data set."""
    path = places.lock(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f"{path.name}.{os.getpid()}")  # processes of one run see a data set at the same time
    write_json(mine, content)
    os.replace(mine, path)


def how_to_pin(source: Source) -> str:
    """What to do where the newest commit of a data set is not what was published."""
    return (
        f'write {{"commit": "HASH"}} to {places.lock(source.name)}, with one from '
        f"https://huggingface.co/datasets/{source.hub}/commits/main that has them, and run: {source.again}"
    )


def compare(name: str, split: str, ids: Iterable[Any]) -> None:
    """Writes down the ids of a split, or compares them with those written down.

    Raises:
        UserError: they are others.
    """
    known, found = read(name), fingerprint(ids)
    expected = known.get("splits", {}).get(split)
    if expected is None:
        try:
            write(name, {**known, "splits": {**known.get("splits", {}), split: found}})
        except OSError as error:  # a cache that is mounted read-only
            log.warning("cannot write down the questions of %s (%s); changes will not be noticed", name, error)
    elif found != expected:
        raise UserError(
            f"{name}, split {split}: the questions are others than when it was first seen ({found[:12]}, not "
            f"{expected[:12]}); if that is wanted, run: comem-lmms data prepare {name} --force"
        )
