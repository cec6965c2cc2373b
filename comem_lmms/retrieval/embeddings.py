"""The vectors of a knowledge base's images on disk: a folder in, rows of length 1 by image number out.

``FOLDER/embeddings/`` of a base holds ``NNNNN.npy``, float16 (n, d), each for a fixed range of image numbers, and
``manifest.json``, which names the base and the embedding model by their fingerprints.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json, sha256
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.knowledge.base import SMALL

FOLDER = "embeddings"
MANIFEST = "manifest.json"
SHARD = 8192  # images of a file
_NEEDED = ("images", "dimension", "shard", "files", "fingerprint", "clip", "pretrained", "clip_fingerprint")


class Embeddings:
    """Vectors by image number.

    Attributes:
        folder: where they lie.
        about: the manifest.
        fingerprint: SHA-256 over the files of vectors.
        dimension: of a vector.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.fingerprint, self.dimension = str(about["fingerprint"]), int(about["dimension"])

    def __len__(self) -> int:
        return int(self.about["images"])

    def shards(self) -> Iterator[np.ndarray]:
        """The files in order, mapped into memory: (n, d) float16 each.

        Raises:
            UserError: one is missing or damaged.
        """
        for number in range(len(self.about["files"])):
            yield self._shard(number)

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """The vectors of some images, in any order: (n, d) float32."""
        taken = np.empty((len(numbers), self.dimension), np.float32)
        shards = numbers // self.about["shard"]
        for shard in np.unique(shards):
            here = shards == shard
            taken[here] = self._shard(int(shard))[numbers[here] - shard * self.about["shard"]]
        return taken

    def verify(self) -> None:
        """Reads every file and compares it with the manifest.

        Raises:
            UserError: one is not what it was.
        """
        for name, (_, expected) in self.about["files"].items():
            if (found := sha256(self.folder / name)) != expected:
                raise UserError(
                    f"{self.folder / name} is damaged or was changed afterwards (SHA-256 {found[:12]}, in {MANIFEST} "
                    f"{expected[:12]}); {self._remedy}"
                )

    @property
    def _remedy(self) -> str:
        return f"remove {self.folder} and run `comem-lmms kb embed {self.folder.parent} --clip MODEL` again"

    def _shard(self, number: int) -> np.ndarray:
        path = self.folder / file_name(number)
        try:
            return np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path} is damaged ({one_line(error)}); {self._remedy}") from error

    @classmethod
    def open(cls, knowledge: KnowledgeBase) -> "Embeddings":
        """The embeddings that lie in the knowledge base's folder; the files of small ones are read and checked.

        Raises:
            UserError: there are none, a file is missing or damaged, or they are of another knowledge base.
        """
        folder = knowledge.folder / FOLDER
        if not (folder / MANIFEST).is_file():
            raise UserError(
                f"knowledge base {knowledge.folder} has no finished embeddings; run `comem-lmms kb embed "
                f"{knowledge.folder} --clip MODEL`"
            )
        embeddings = cls(folder, read_json(folder / MANIFEST, *_NEEDED))
        check_base(folder, embeddings.about, knowledge)
        total = 0
        for name, (size, _) in embeddings.about["files"].items():
            path = folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                told = "is missing" if found is None else f"has {found:,} bytes, not {size:,}: it is damaged"
                raise UserError(f"{path} {told}; {embeddings._remedy}")
            total += size
        if total <= SMALL:
            embeddings.verify()
        return embeddings


def file_name(shard: int) -> str:
    """Of a range of image numbers."""
    return f"{shard:05}.npy"


def fingerprint(files: dict[str, list[Any]]) -> str:
    """Of all vectors, from the SHA-256 of each file."""
    return hashlib.sha256("\n".join(digest for _, digest in files.values()).encode()).hexdigest()


def check_base(folder: Path, about: dict[str, Any], knowledge: KnowledgeBase) -> None:
    """Raises UserError if the embeddings in a folder are of another knowledge base."""
    if about.get("knowledge") != knowledge.fingerprint:
        raise UserError(
            f"embeddings {folder} belong to knowledge base {str(about.get('knowledge'))[:12]}, not to "
            f"{knowledge.fingerprint[:12]} in {knowledge.folder}; remove {folder} and run `comem-lmms kb embed "
            f"{knowledge.folder} --clip MODEL` again"
        )
