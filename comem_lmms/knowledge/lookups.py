"""What a knowledge base is asked for all the time: small arrays beside its tables, mapped into memory.

They are made of the item tables when a base is finished, and never hold a Python object for each item.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from comem_lmms.errors import UserError, one_line
from comem_lmms.knowledge.rows import digest_of
from comem_lmms.knowledge.shards import Shards
from comem_lmms.linking.titles import Texts

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
    return np.uint64(int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=8).digest(), "little"))


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

    def array(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        if 0 in shape:  # cannot be mapped
            np.save(folder / f"{name}.npy", np.zeros(shape, dtype))
            return np.zeros(shape, dtype)
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)

    offsets, ids = array("id_offsets", (n + 1,), np.int64), array("ids", (id_bytes,), np.uint8)
    keys, image_of = array("keys", (n, 32), np.uint8), array("image_of", (n,), np.int64)
    hashes = np.zeros(n, np.uint64)
    fingerprint = hashlib.sha256()
    row = 0
    for batch in items.batches(["id", "language", "image", "key"]):
        columns = batch.to_pydict()
        for id_, language, image, key in zip(*columns.values(), strict=True):
            encoded = id_.encode()
            offsets[row + 1] = offsets[row] + len(encoded)
            ids[offsets[row] : offsets[row + 1]] = np.frombuffer(encoded, np.uint8)
            keys[row] = np.frombuffer(key, np.uint8)
            image_of[row] = -1 if image is None else image
            hashes[row] = id_hash(id_)
            fingerprint.update(digest_of(encoded, language.encode(), key).digest())
            row += 1
    order = np.argsort(hashes, kind="stable")
    array("by_id", (n,), np.int64)[:] = order
    array("id_hashes", (n,), np.uint64)[:] = hashes[order]
    by_image = np.argsort(image_of, kind="stable")[int((np.asarray(image_of) < 0).sum()) :]
    array("by_image", by_image.shape, np.int64)[:] = by_image
    counts = np.bincount(image_of[by_image], minlength=n_images)
    array("image_offsets", (n_images + 1,), np.int64)[1:] = np.cumsum(counts)
    _check_ids(Texts(offsets, ids), hashes, order)
    return fingerprint.hexdigest()


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


def _check_ids(ids: Sequence[str], hashes: np.ndarray, order: np.ndarray) -> None:
    alike = np.flatnonzero(np.diff(hashes[order]) == 0)
    for place in alike.tolist():
        if ids[order[place]] == ids[order[place + 1]]:
            raise UserError(
                f"two items have the id {ids[order[place]]!r}; ids of a knowledge base must differ, change one"
            )
