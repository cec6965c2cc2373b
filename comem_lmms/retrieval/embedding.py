"""Makes embeddings: a knowledge base and an embedding model in, a folder of vectors out.

A file of vectors is there as a whole or not at all, so whoever goes on after an interruption loses one file's work for
each process. Which process makes which file, and which images are computed together, follows from the image numbers
alone, never from what was done before.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from comem_lmms import __version__
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import alone, read_json, sha256, whole, write_json
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval.clip import BATCH, ClipEmbedder
from comem_lmms.retrieval.embeddings import FOLDER, MANIFEST, SHARD, Embeddings, check_base, file_name, fingerprint

log = logging.getLogger(__name__)

FORMAT = 1
BEGUN = "begun.json"  # what an unfinished folder is made with
Range = tuple[int, int]


def embed(
    knowledge: KnowledgeBase, embedder: ClipEmbedder, batch_size: int = BATCH, workers: int = 0, shard: int = SHARD
) -> Embeddings:
    """Embeds every image of a base into its folder, or goes on with that; under accelerate, file i is made by process
    i mod n.

    Args:
        knowledge: the base.
        embedder: the model.
        batch_size: images computed at a time.
        workers: processes that decode and preprocess ahead of the model, 0 to do that in turn.
        shard: images of a file.

    Raises:
        UserError: no item has an image, an image cannot be read, the disk refuses, another process is at work, or the
            folder holds vectors of another base or model.
    """
    if batch_size < 1 or workers < 0:
        raise UserError(f"batch_size={batch_size} and workers={workers}: give at least 1 and 0")
    if not knowledge.n_images:
        raise UserError(f"no item of knowledge base {knowledge.folder} has an image to be found by; give them some")
    process = PartialState(cpu=not torch.cuda.is_available())
    if process.is_main_process and (blind := len(knowledge) - knowledge.n_pictured):
        log.warning("%s of %s items have no image and cannot be found", blind, len(knowledge))
    folder = knowledge.folder / FOLDER
    settings = {
        "format": FORMAT,
        "knowledge": knowledge.fingerprint,
        "images": knowledge.n_images,
        "clip": embedder.name,
        "pretrained": embedder.pretrained,
        "clip_fingerprint": embedder.fingerprint,
        "computed_in": str(embedder.dtype).removeprefix("torch."),
        "shard": shard,
    }
    with alone(knowledge.folder) if process.is_main_process else nullcontext():
        if process.is_main_process:
            _begin(folder, settings)
        process.wait_for_everyone()
        _check(folder, settings, knowledge)
        if not (folder / MANIFEST).is_file():
            shards = range(process.process_index, _count(settings), process.num_processes)
            missing = [number for number in shards if not (folder / file_name(number)).is_file()]
            _fill(folder, knowledge, embedder, missing, shard, batch_size, workers, not process.is_main_process)
            process.wait_for_everyone()
            if process.is_main_process:
                _finish(folder, settings)
            process.wait_for_everyone()
    return Embeddings.open(knowledge)


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    try:
        folder.mkdir(exist_ok=True)
        for partial in folder.glob("*.partial"):
            partial.unlink(missing_ok=True)
        if not (folder / MANIFEST).is_file() and not (folder / BEGUN).is_file():
            write_json(folder / BEGUN, settings)
    except OSError as error:
        raise UserError(f"cannot write embeddings to {folder} ({one_line(error)}); put that right") from error


def _check(folder: Path, settings: dict[str, Any], knowledge: KnowledgeBase) -> None:
    """Raises UserError if what lies in the folder was made otherwise."""
    about = read_json(folder / (MANIFEST if (folder / MANIFEST).is_file() else BEGUN))
    check_base(folder, about, knowledge)
    if about.get("clip_fingerprint") != settings["clip_fingerprint"]:
        raise UserError(
            f"embeddings {folder} were made with open_clip model {about.get('clip')!r} (fingerprint "
            f"{str(about.get('clip_fingerprint'))[:12]}), not with {settings['clip']!r} "
            f"({settings['clip_fingerprint'][:12]}); use that model, or remove {folder}"
        )
    for name in ("format", "computed_in", "shard"):
        if about.get(name) != settings[name]:
            raise UserError(
                f"embeddings {folder} were begun with {name}={about.get(name)!r}, not {settings[name]!r}; give the "
                f"same, or remove {folder}"
            )


def _fill(
    folder: Path,
    knowledge: KnowledgeBase,
    embedder: ClipEmbedder,
    numbers: Sequence[int],
    shard: int,
    batch_size: int,
    workers: int,
    quiet: bool,
) -> None:
    """Makes some files."""
    ends = [min((number + 1) * shard, knowledge.n_images) for number in numbers]
    parts = [_ranges(number * shard, end, batch_size) for number, end in zip(numbers, ends, strict=True)]
    images = sum(end - number * shard for number, end in zip(numbers, ends, strict=True))
    pixels = _Pixels(knowledge.folder, [one for part in parts for one in part], embedder.preprocess)
    batches = iter(DataLoader(pixels, batch_size=None, num_workers=workers))
    with tqdm(total=images, desc="Embedding", unit="image", disable=quiet) as progress:
        for number, part in zip(numbers, parts, strict=True):
            vectors = []
            for _ in part:
                vectors.append(_embedded(next(batches), embedder))
                progress.update(len(vectors[-1]))
            _write(folder / file_name(number), np.concatenate(vectors))


def _ranges(start: int, stop: int, size: int) -> list[Range]:
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def _embedded(pixels: torch.Tensor | UserError, embedder: ClipEmbedder) -> np.ndarray:
    if isinstance(pixels, UserError):
        raise pixels
    return embedder.encode(pixels).astype(np.float16)


class _Pixels(Dataset[torch.Tensor | UserError]):
    """Ranges of image numbers, decoded and preprocessed: (n, 3, height, width) float32.

    An error is returned, since a DataLoader makes a traceback of what a worker raises.
    """

    def __init__(self, folder: Path, ranges: Sequence[Range], preprocess: Any) -> None:
        self._folder, self._ranges, self._preprocess = folder, ranges, preprocess
        self._knowledge: KnowledgeBase | None = None  # every worker opens its own

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, number: int) -> torch.Tensor | UserError:
        try:
            self._knowledge = self._knowledge or KnowledgeBase.open(self._folder)
            images = self._knowledge.images(*self._ranges[number])
            return torch.stack([self._preprocess(image) for image in images])
        except UserError as error:
            return error


def _write(path: Path, vectors: np.ndarray) -> None:
    try:
        with whole(path) as partial, partial.open("wb") as file:
            np.save(file, vectors)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({one_line(error)}); put that right and run it again, what is written is kept"
        ) from error


def _finish(folder: Path, settings: dict[str, Any]) -> None:
    """Looks at all files and writes the manifest, with which the embeddings are whole."""
    files: dict[str, list[Any]] = {}
    dimension = 0
    for path, rows in _expected(folder, settings):
        try:
            vectors = np.load(path, mmap_mode="r")
            lengths = np.linalg.norm(vectors.astype(np.float32), axis=-1)
            fits = vectors.shape == (rows, dimension or vectors.shape[-1]) and vectors.dtype == np.float16
        except (OSError, EOFError, ValueError):
            fits = False
        if not fits or not (np.abs(lengths - 1) < 0.01).all():  # as after a power failure, or arithmetic overflow
            path.unlink(missing_ok=True)
            raise UserError(
                f"{path} does not hold {rows} vectors of length 1 and was removed; run the same command again, and if "
                "this comes again, with --dtype float32 into a new folder"
            )
        dimension = vectors.shape[1]
        files[path.name] = [path.stat().st_size, sha256(path)]
    about = {"made_by": f"comem-lmms {__version__}", "dimension": dimension, "dtype": "float16"}
    write_json(folder / MANIFEST, {**settings, **about, "fingerprint": fingerprint(files), "files": files})
    (folder / BEGUN).unlink(missing_ok=True)


def _expected(folder: Path, settings: dict[str, Any]) -> Iterator[tuple[Path, int]]:
    for number in range(_count(settings)):
        yield folder / file_name(number), min(settings["shard"], settings["images"] - number * settings["shard"])


def _count(settings: dict[str, Any]) -> int:
    return -(-settings["images"] // settings["shard"])
