"""The search index of a knowledge base: image vectors in, the nearest images out.

``FOLDER/index/`` of a knowledge base holds ``index.faiss`` and ``index.json``, which names the knowledge base and the
embedding model by their fingerprints, so that an index is never searched with vectors of another kind.
"""

import logging

import faiss
import numpy as np
from tqdm import tqdm

from comem_lmms.errors import UserError
from comem_lmms.files import files_fingerprint, read_json, write_json
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval.clip import ClipEmbedder

log = logging.getLogger(__name__)

FOLDER = "index"


class Index:
    """An exact inner-product index (cosine, since vectors have length 1) over the images of a base."""

    def __init__(self, index: faiss.Index, about: dict[str, object]) -> None:
        self.about = about
        self._index = index

    def __len__(self) -> int:
        return self._index.ntotal

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n, k) float32 and numbers (n, k) int64 of the k nearest images, best first; -1 for none."""
        return self._index.search(np.ascontiguousarray(vectors, dtype=np.float32), k)

    @classmethod
    def open(cls, knowledge: KnowledgeBase) -> "Index":
        """The index that lies in the knowledge base's folder.

        Raises:
            UserError: there is none, it is damaged, or it was built for another knowledge base.
        """
        folder = knowledge.folder / FOLDER
        remedy = f"build one with `comem-lmms kb index {knowledge.folder} --clip MODEL`"
        if not (folder / "index.json").is_file() or not (folder / "index.faiss").is_file():
            raise UserError(f"knowledge base {knowledge.folder} has no index; {remedy}")
        about = read_json(folder / "index.json")
        try:
            index = faiss.read_index(str(folder / "index.faiss"))
        except RuntimeError as error:
            raise UserError(f"index {folder / 'index.faiss'} is damaged; {remedy}") from error
        if about.get("items") != len(knowledge):
            raise UserError(
                f"index {folder} is of {about.get('items')} items but the base has {len(knowledge)}; {remedy}"
            )
        if about.get("index") != files_fingerprint([folder / "index.faiss"]):
            raise UserError(f"index {folder / 'index.faiss'} is not the one that index.json describes; {remedy}")
        if about.get("knowledge") != knowledge.fingerprint:
            raise UserError(
                f"index {folder} belongs to knowledge base {str(about.get('knowledge'))[:12]}, not to "
                f"{knowledge.fingerprint[:12]} in {knowledge.folder}; {remedy}"
            )
        return cls(index, about)

    @classmethod
    def build(cls, knowledge: KnowledgeBase, embedder: ClipEmbedder) -> "Index":
        """Embeds every image and writes the index into the knowledge base's folder.

        Raises:
            UserError: no item has an image, or an image cannot be read.
        """
        if not knowledge.n_images:
            raise UserError(f"no item of knowledge base {knowledge.folder} has an image to be found by; give them some")
        if blind := len(knowledge) - knowledge.n_pictured:
            log.warning("%s of %s items have no image and cannot be found", blind, len(knowledge))
        images = tqdm(knowledge.images(), total=knowledge.n_images, desc="Embedding", unit="image")
        vectors = np.concatenate(list(embedder.embed_all(images)))
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        about = {
            "knowledge": knowledge.fingerprint,
            "items": len(knowledge),
            "dimension": vectors.shape[1],
            "clip": embedder.name,
            "pretrained": embedder.pretrained,
            "clip_fingerprint": embedder.fingerprint,
        }
        folder = knowledge.folder / FOLDER
        folder.mkdir(exist_ok=True)
        faiss.write_index(index, str(folder / "index.faiss"))
        about["index"] = files_fingerprint([folder / "index.faiss"])
        write_json(folder / "index.json", about)
        return cls(index, about)

    def check_embedder(self, embedder: ClipEmbedder) -> None:
        """Raises UserError if the index was not made with this embedding model."""
        if embedder.fingerprint != self.about["clip_fingerprint"]:
            raise UserError(
                f"the index was made with open_clip model {self.about['clip']!r} (fingerprint "
                f"{str(self.about['clip_fingerprint'])[:12]}) but {embedder.name!r} ({embedder.fingerprint[:12]}) is to"
                " search it; use the model of the index, or build it again with `comem-lmms kb index --clip`"
            )
