"""Folders of images: a folder in, where each image is out.

A folder is walked once and what was found is kept as a table, since there may be millions of files.
"""

import json
import logging
import os
import tarfile
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from comem_lmms.errors import UserError
from comem_lmms.images import IMAGE_ERRORS, strictly

log = logging.getLogger(__name__)
ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
INATURALIST = "train.json"
_SCHEMA = pa.schema([("stem", pa.string()), ("name", pa.string()), ("path", pa.string())])
_BATCH = 100_000


def check_folder(folder: Path) -> None:
    """Refuses what a user wrote instead of a folder, before anything is downloaded.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder} is not a folder; give the one with the images")


def index(folder: Path, file: Path) -> int:
    """Walks a folder and writes where its images are; returns their number.

    iNaturalist names images by numbers that its ``train.json`` turns into paths: they go in as ``inaturalist/NUMBER``.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    check_folder(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    found, rows = 0, _walk(folder.resolve())
    with (
        pq.ParquetWriter(partial, _SCHEMA) as writer,
        tqdm(desc=f"images below {folder}", unit="", disable=None) as bar,
    ):
        while batch := list(islice(rows, _BATCH)):
            writer.write_table(pa.table(list(zip(*batch, strict=True)), schema=_SCHEMA))
            found += len(batch)
            bar.update(len(batch))
    if not found:
        partial.unlink()
        raise UserError(f"--images {folder} holds no images ({', '.join(sorted(ENDINGS))}); give the folder with them")
    os.replace(partial, file)
    return found


def locate(file: Path, keys: Collection[str], by: Literal["stem", "name"]) -> dict[str, Path]:
    """The paths of the images of an index, for those keys that it has; of several of one name the first."""
    if not file.is_file():
        return {}
    table = pq.read_table(file, columns=[by, "path"], filters=[(by, "in", list(keys))])
    found: dict[str, Path] = {}
    for key, path in zip(table[by].to_pylist(), table["path"].to_pylist(), strict=True):
        found.setdefault(key, Path(path))
    return found


def is_image(path: Path, whole: bool = False) -> bool:
    """Whether a file begins as an image does; with ``whole``, whether all of it can be decoded."""
    try:
        with strictly(), Image.open(path) as image:
            if whole:
                image.load()
        return True
    except IMAGE_ERRORS:
        return False


def extract(archive: Path, folder: Path) -> None:
    """Unpacks a tar file; what is there already, in its full size, stays as it is.

    Raises:
        UserError: the file is damaged, or has members that would land elsewhere.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python cannot unpack tar files safely; use 3.10.12, 3.11.4, or a newer one")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as members, tqdm(desc=f"unpacking {archive.name}", unit="", disable=None) as bar:
            for member in members:
                there = folder / member.name
                if not (member.isfile() and there.is_file() and there.stat().st_size == member.size):
                    members.extract(member, folder, filter="data")
                bar.update()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"cannot unpack {archive} to {folder} ({error}); delete the tar file and run it again"
        ) from error


def _walk(folder: Path) -> Iterator[tuple[str, str, str]]:
    seen = set()  # links may lead back up
    for parent, folders, names in os.walk(folder, onerror=_skip, followlinks=True):
        folders.sort()
        here = os.path.realpath(parent)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            if ending.lower() in ENDINGS:
                yield stem, name, os.path.join(parent, name)
            elif name == INATURALIST:
                yield from _inaturalist(Path(parent, name))


def _skip(error: OSError) -> None:
    log.warning("cannot look into %s (%s); going on without", error.filename, error.strerror)


def _inaturalist(file: Path) -> Iterator[tuple[str, str, str]]:
    try:
        images = json.loads(file.read_bytes())["images"]
        for image in images:
            yield f"inaturalist/{image['id']}", image["file_name"], str(file.parent / image["file_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not iNaturalist 2021's train.json ({error}); move it away or replace it") from error
