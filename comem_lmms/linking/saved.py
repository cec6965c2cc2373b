"""An index of titles in a folder: arrays out to files of their own, and back mapped into memory.

Each array is a plain ``NAME.npy``; ``vocab.txt`` is the vocabulary that titles were tokenised with, and
``manifest.json`` says what all of them are and came from. The folder appears under its name when all is written.
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from comem_lmms import __version__
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json, sha256, write_json
from comem_lmms.linking.postings import EPSILON, K1, B, Postings
from comem_lmms.linking.titles import Texts
from comem_lmms.linking.wordpiece import VOCABULARY

FORMAT = 2  # a change of what is written, or of how weights are computed, needs another
MANIFEST = "manifest.json"


class Parts(NamedTuple):
    """What an index is made of; documents of the postings are rows of ids and titles."""

    postings: Postings
    ids: Texts
    titles: Texts

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, by the names of its files."""
        texts = {"ids": self.ids.letters, "titles": self.titles.letters}
        offsets = {"id_offsets": self.ids.offsets, "title_offsets": self.titles.offsets}
        return {**self.postings._asdict(), **texts, **offsets}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "Parts":
        """From what `arrays` gives."""
        postings = Postings(*(arrays[name] for name in Postings._fields))
        ids = Texts(arrays["id_offsets"], arrays["ids"])
        return cls(postings, ids, Texts(arrays["title_offsets"], arrays["titles"]))


NAMES = (*Postings._fields, "ids", "titles", "id_offsets", "title_offsets")


def save(folder: Path, parts: Parts, source: Path, vocabulary: Path) -> None:
    """Writes an index into a folder that is there; the manifest, without which it does not open, comes last."""
    arrays = parts.arrays()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    shutil.copyfile(vocabulary, folder / VOCABULARY)
    about = {
        "format": FORMAT,
        "made_by": f"comem-lmms {__version__}",
        "titles": len(parts.titles),
        "source": source.name,
        "source_sha256": sha256(source),
        "vocabulary_sha256": sha256(vocabulary),
        "bm25": {"k1": K1, "b": B, "epsilon": EPSILON},
        "arrays": {name: _kind(array) for name, array in arrays.items()},
    }
    write_json(folder / MANIFEST, about)


def load(folder: Path) -> tuple[Parts, Path]:
    """The index in a folder, its arrays mapped into memory, and its vocabulary file.

    Raises:
        UserError: there is none, it is of another format, or a file is missing, cut off or not the one of the manifest.
    """
    command = f"`comem-lmms link build TITLES --out {folder}`"
    if not (folder / MANIFEST).is_file():
        raise UserError(f"no index of titles at {folder}: {MANIFEST} is missing; build one with {command}")
    remedy = f"remove the folder and build it again with {command}"
    about = read_json(folder / MANIFEST)
    if about.get("format") != FORMAT:
        raise UserError(f"index {folder} has format {about.get('format')!r}, this version reads {FORMAT}; {remedy}")
    vocabulary = folder / VOCABULARY
    if not vocabulary.is_file() or sha256(vocabulary) != about.get("vocabulary_sha256"):
        raise UserError(f"{vocabulary} is missing, or is not the one that the index was built with; {remedy}")
    arrays = {name: _mapped(folder / f"{name}.npy", remedy) for name in NAMES}
    changed = [name for name, array in arrays.items() if _kind(array) != about.get("arrays", {}).get(name)]
    if changed:
        raise UserError(f"index {folder}: {changed[0]}.npy is not the one that {MANIFEST} describes; {remedy}")
    return Parts.of(arrays), vocabulary


def _kind(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape)}


def _mapped(file: Path, remedy: str) -> np.ndarray:
    try:
        return np.asarray(np.load(file, mmap_mode="r"))  # numpy's memmap class makes each slice slower
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{file} is missing or cut off ({one_line(error)}); {remedy}") from error
