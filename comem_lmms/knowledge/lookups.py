"""What a knowledge base is asked for all the time: small arrays beside its tables, mapped into memory.

They are made of the item tables when a base is finished; of each item a few numbers are in memory then.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from comem_lmms.errors import UserError, one_line
from comem_lmms.knowledge.rows import digest_of
from comem_lmms.knowledge.shards import Shards
from comem_lmms.linking.titles import Texts

if TYPE_CHECKING:
    from typing_extensions import Self

FOLDER = "lookups"


class Lookups(NamedTuple):
    """Of n items with m images.

    Attributes:
        id_offsets: (n + 1,) int64; the id of row i is ``ids[id_offsets[i]:id_offsets[i + 1]]``, UTF-8.
        ids: (bytes,) uint8.
        id_hashes: (n,) uint64, ascending.
        by_id: (n,) int64, the row of each hash.
        keys: (n, 32) uint8, what `rows.key` gives.
        image_of: (n,) int64, the number of a row's image, -1 for none.
        by_image: (rows with an image,) int64, in the order of the images, then of the rows.
        image_offsets: (m + 1,) int64; the rows of image j are ``by_image[image_offsets[j]:image_offsets[j + 1]]``.
    """

    id_offsets: np.ndarray
    ids: np.ndarray
    id_hashes: np.ndarray
    by_id: np.ndarray
    keys: np.ndarray
    image_of: np.ndarray
    by_image: np.ndarray
    image_offsets: np.ndarray

    def id(self, row: int) -> str:
        """The id of a row."""
        return Texts(self.id_offsets, self.ids)[row]

    def find(self, id_: str) -> int | None:
        """The row of an id, None if there is none."""
        start = int(np.searchsorted(self.id_hashes, id_hash(id_)))
        while start < len(self.id_hashes) and self.id_hashes[start] == id_hash(id_):
            if self.id(row := int(self.by_id[start])) == id_:
                return row
            start += 1
        return None


def id_hash(id_: str) -> np.uint64:
    """64 bits of an id."""
    return np.uint64(_hash(id_.encode()))


def _hash(id_: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(id_, digest_size=8).digest(), "little")


def make(folder: Path, items: Shards, id_bytes: int, n_images: int) -> str:
    """Writes the arrays into a folder, and returns the fingerprint of the base.

    Args:
        folder: to write to.
        items: all of them.
        id_bytes: of all ids together.
        n_images: in the base.

    Raises:
        UserError: two items have the same id.
    """
    folder.mkdir(exist_ok=True)
    n = len(items)
    hashes, image_of = np.zeros(n, np.uint64), np.zeros(n, np.int64)
    fingerprint = hashlib.sha256()
    row = id_end = 0
    with (
        _Column(folder, "id_offsets", (n + 1,), np.int64) as offsets,
        _Column(folder, "ids", (id_bytes,), np.uint8) as ids,
        _Column(folder, "keys", (n, 32), np.uint8) as keys,
    ):
        offsets.add(np.zeros(1))
        for batch in items.batches(["id", "language", "image", "key"]):
            columns = batch.to_pydict()
            encoded = [id_.encode() for id_ in columns["id"]]
            for id_, language, key in zip(encoded, columns["language"], columns["key"], strict=True):
                fingerprint.update(digest_of(id_, language.encode(), key).digest())
            ends = id_end + np.cumsum([len(id_) for id_ in encoded])
            offsets.add(ends)
            ids.add(np.frombuffer(b"".join(encoded), np.uint8))
            keys.add(np.frombuffer(b"".join(columns["key"]), np.uint8))
            here = slice(row, row + len(encoded))
            image_of[here] = [-1 if image is None else image for image in columns["image"]]
            hashes[here] = [_hash(id_) for id_ in encoded]
            row, id_end = row + len(encoded), ends[-1]
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    _save(folder, "id_hashes", hashes)
    _save(folder, "by_id", order)
    _check_ids(folder, hashes, order)
    del hashes, order
    _save(folder, "image_of", image_of)
    by_image = np.argsort(image_of, kind="stable")[int((image_of < 0).sum()) :]
    _save(folder, "by_image", by_image)
    counts = np.bincount(image_of[by_image], minlength=n_images)
    _save(folder, "image_offsets", np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))
    return fingerprint.hexdigest()


class _Column:
    """An array's file that is written part by part, so that the whole is never in memory."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], dtype: type) -> None:
        self._dtype, self._file = np.dtype(dtype), (folder / f"{name}.npy").open("wb")
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def add(self, part: np.ndarray) -> None:
        self._file.write(part.astype(self._dtype).tobytes())

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _save(folder: Path, name: str, array: np.ndarray) -> None:
    np.save(folder / f"{name}.npy", array)


def load(folder: Path, remedy: str) -> Lookups:
    """The arrays in a folder, mapped into memory.

    Raises:
        UserError: one is missing or damaged.
    """
    arrays = []
    for name in Lookups._fields:
        file = folder / f"{name}.npy"
        try:
            arrays.append(np.asarray(np.load(file, mmap_mode="r")))
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{file} is damaged or was changed afterwards ({one_line(error)}); {remedy}") from error
    return Lookups(*arrays)


def _check_ids(folder: Path, hashes: np.ndarray, order: np.ndarray) -> None:
    """Raises UserError if two ids are the same; ``hashes`` are in the given order."""
    ids = Texts(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("id_offsets", "ids")))
    for place in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
        if ids[order[place]] == ids[order[place + 1]]:
            raise UserError(
                f"two items have the id {ids[order[place]]!r}; ids of a knowledge base must differ, change one"
            )
