"""The search index of a knowledge base: image vectors in, the nearest rows out.

``FOLDER/index/`` of a knowledge base holds ``index.faiss`` and ``index.json``, which names the knowledge base and the
embedding model by their fingerprints, so that an index is never searched with vectors of another kind.
"""

import faiss
import numpy as np
from PIL import Image
from tqdm import tqdm

from comem_lmms.errors import UserError
from comem_lmms.files import files_fingerprint, read_json, write_json
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval.clip import ClipEmbedder

FOLDER = "index"


class Index:
    """An exact inner-product index (cosine, since vectors have length 1) over all items of a knowledge base."""

    def __init__(self, index: faiss.Index, about: dict[str, object]) -> None:
        self.about = about
        self._index = index

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n, k) float32 and rows (n, k) int64 of the k nearest items, best first; row -1 for none."""
        return self._index.search(np.ascontiguousarray(vectors, dtype=np.float32), k)

    @classmethod
    def open(cls, knowledge: KnowledgeBase) -> "Index":
        """The index that lies in the knowledge base's folder.

        Raises:
            UserError: there is none, it is damaged, or it was built for another knowledge base.
        """
        folder = knowledge.folder / FOLDER
        remedy = f"build it again with `comem-lmms kb index {knowledge.folder}`"
        if not (folder / "index.json").is_file() or not (folder / "index.faiss").is_file():
            raise UserError(f"knowledge base {knowledge.folder} has no index; {remedy}")
        about = read_json(folder / "index.json")
        try:
            index = faiss.read_index(str(folder / "index.faiss"))
        except RuntimeError as error:
            raise UserError(f"index {folder / 'index.faiss'} is damaged; {remedy}") from error
        if index.ntotal != len(knowledge):
            raise UserError(
                f"index {folder} has {index.ntotal} vectors but the base has {len(knowledge)} items; {remedy}"
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
        """Embeds every item's image and writes the index into the knowledge base's folder.

        Raises:
            UserError: an item has no image, or one that cannot be read.
        """
        images = (_image(knowledge, row) for row in tqdm(range(len(knowledge)), desc="Embedding", unit="item"))
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
                " search it; use the model of the index, or build it again with `comem-lmms kb index`"
            )


def _image(knowledge: KnowledgeBase, row: int) -> Image.Image:
    item = knowledge[row]
    if item.image is None:
        raise UserError(f"item {item.id!r} has no image, so it cannot be indexed by image; give it one or remove it")
    return item.image
