"""The search index of a knowledge base: image vectors in, the nearest images out.

``FOLDER/index/`` of a knowledge base holds ``index.faiss`` and ``index.json``, which names the knowledge base, the
embeddings and the embedding model by their fingerprints, so that an index is never searched with vectors of another
kind. It is mapped into memory; processes of a machine share it.
"""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from tqdm import tqdm

from comem_lmms import __version__
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import alone, files_fingerprint, read_json, sync, whole, write_json
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.knowledge.base import SMALL
from comem_lmms.retrieval.choosing import EXACT, PER_LIST, QUERIES, Sample, choose, tune
from comem_lmms.retrieval.clip import ClipEmbedder, check_device
from comem_lmms.retrieval.embeddings import FOLDER as EMBEDDINGS
from comem_lmms.retrieval.embeddings import MANIFEST, Embeddings

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

FOLDER = "index"
COMPARED = 1 << 16  # of them at a time
_NEEDED = ("images", "index", "clip", "pretrained", "clip_fingerprint", "reranked", "search")


class Index:
    """An inner-product index (cosine, since vectors have length 1) over the images of a base.

    Args:
        index: of FAISS.
        about: what ``index.json`` holds.
        first: number of the image that the index calls 0.
        embeddings: to compare what the index finds with.
    """

    def __init__(
        self, index: faiss.Index, about: dict[str, Any], first: int = 0, embeddings: Embeddings | None = None
    ) -> None:
        self.about = about
        self._index, self._first, self._embeddings = index, first, embeddings

    def __len__(self) -> int:
        return int(self.about["images"])

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n, k) float32 and numbers (n, k) int64 of the k nearest images, best first; -1 for none.

        Raises:
            UserError: FAISS cannot find so many; on a GPU it finds 2048 at most.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self._embeddings is not None:
            return _reranked(self._embeddings, vectors, self._found(vectors, k * self.about["reranked"])[1], k)
        scores, numbers = self._found(vectors, k)
        return scores, np.where(numbers < 0, numbers, numbers + self._first)

    def _found(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            return self._index.search(vectors, k)
        except RuntimeError as error:
            raise UserError(
                f"FAISS cannot find the {k} nearest ({_reason(error)}); lower top_k, or search on the CPU"
            ) from error

    @classmethod
    def open(cls, knowledge: KnowledgeBase, device: str = "cpu", part: tuple[int, int] = (0, 1)) -> "Self":
        """The index that lies in the knowledge base's folder.

        Args:
            device: to search on.
            part: ``(i, n)`` for the i-th of n parts, each with as many images; on a processor a part is copied into
                memory, the whole is mapped.

        Raises:
            UserError: there is none, it is damaged, it was built for another knowledge base or other embeddings, it
                cannot be divided, or the device cannot search it.
        """
        folder = knowledge.folder / FOLDER
        about = _checked(folder, knowledge)
        try:
            index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise UserError(f"index {folder / 'index.faiss'} is damaged; {_remedy(knowledge)}") from error
        if about["search"]:
            faiss.ParameterSpace().set_index_parameters(index, about["search"])
        first = 0
        if part != (0, 1):
            first, stop = (about["images"] * i // part[1] for i in (part[0], part[0] + 1))
            index, first = _divided(index, first, stop)
        embeddings = Embeddings.open(knowledge) if about["reranked"] else None
        return cls(to_device(index, device), about, first, embeddings)

    @classmethod
    def verify(cls, knowledge: KnowledgeBase) -> None:
        """Reads the whole index, however large, and compares it with what is told of it.

        Raises:
            UserError: there is none, it is damaged, or it belongs to other embeddings or another base.
        """
        _checked(knowledge.folder / FOLDER, knowledge, limit=None)

    @classmethod
    def build(
        cls,
        knowledge: KnowledgeBase,
        kind: str = "auto",
        memory: float | None = None,
        device: str = "cpu",
        min_recall: float = 0.97,
    ) -> "Self":
        """Writes an index of a base's embeddings into its folder, in place of one that is there.

        Args:
            kind: "auto", "flat", "hnsw", "ivf", "pq", or a FAISS factory string.
            memory: bytes that it may take, for "auto"; default: half of what there is.
            device: where it is trained and its recall measured.
            min_recall: recall@10 that it must reach beside exact search.

        Raises:
            UserError: there are no embeddings, another process is at work, FAISS cannot make the index, or it does not
                reach the recall.
        """
        if not 0 <= min_recall <= 1:
            raise UserError(f"the least recall is {min_recall}; give a share from 0 to 1")
        with alone(knowledge.folder):
            cls._build(knowledge, kind, memory, device, min_recall)
        return cls.open(knowledge, device)

    @classmethod
    def _build(cls, knowledge: KnowledgeBase, kind: str, memory: float | None, device: str, min_recall: float) -> None:
        embeddings = Embeddings.open(knowledge)
        embeddings.verify()
        check_device(device)
        choice = choose(kind, len(embeddings), embeddings.dimension, memory, device)
        log.info("%s: %s", choice.factory, choice.why)
        try:
            index = _filled(choice.factory, embeddings, device)
            sample = Sample(embeddings, device)
            space = faiss.GpuParameterSpace() if device.startswith("cuda") else faiss.ParameterSpace()
            tuned = to_device(index, device)
            asked = cls(tuned, {"reranked": choice.reranked}, embeddings=embeddings if choice.reranked else None)
            search, recall = tune(tuned, space, lambda *query: Index.search(asked, *query), sample, min_recall, kind)
            if search:  # goes into the file, of which the fingerprint is; on a GPU, a copy was tuned
                written: Any = faiss.ParameterSpace()
                written.set_index_parameters(index, search)
        except RuntimeError as error:
            raise UserError(
                f"FAISS cannot make an index {choice.factory!r} of {len(embeddings):,} vectors of "
                f"{embeddings.dimension} dimensions ({_reason(error)}); give another --type"
            ) from error
        about = {
            "made_by": f"comem-lmms {__version__}, faiss {faiss.__version__}",
            "knowledge": knowledge.fingerprint,
            "items": len(knowledge),
            "images": len(embeddings),
            "dimension": embeddings.dimension,
            "embeddings": embeddings.fingerprint,
            **{name: embeddings.about[name] for name in ("clip", "pretrained", "clip_fingerprint")},
            "factory": choice.factory,
            "why": choice.why,
            "reranked": choice.reranked,
            "search": search,
            "recall_at_10": recall,
            "recall_of": f"{min(QUERIES, len(embeddings)):,} of the base's own vectors with noise",
        }
        _write(knowledge.folder / FOLDER, index, about)

    def check_embedder(self, embedder: ClipEmbedder) -> None:
        """Raises UserError if the index was not made with this embedding model."""
        if embedder.fingerprint != self.about["clip_fingerprint"]:
            raise UserError(
                f"the index was made with open_clip model {self.about['clip']!r} (fingerprint "
                f"{str(self.about['clip_fingerprint'])[:12]}) but {embedder.name!r} ({embedder.fingerprint[:12]}) is to"
                " search it; use the model of the index, or make embeddings and index again with `comem-lmms kb embed "
                "--clip` and `comem-lmms kb index`"
            )


def to_device(index: faiss.Index, device: str) -> faiss.Index:
    """The index as it is, or a copy on a GPU.

    Raises:
        UserError: FAISS has no GPU to use, or cannot hold such an index on one.
    """
    if device == "cpu":
        return index
    if not device.startswith("cuda"):
        raise UserError(f"FAISS searches on cpu or cuda, not on {device!r}; give one of them")
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        raise UserError(
            f"FAISS cannot search on {device}: it is built without GPUs, or sees none; install faiss-gpu (`pip install "
            "'comem-lmms[gpu]'`, in a clone `pip install '.[gpu]'`), or search on the CPU, which is the default"
        )
    _, _, number = device.partition(":")
    options = faiss.GpuClonerOptions()
    options.useFloat16 = True
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(number or 0), index, options)
    except RuntimeError as error:
        raise UserError(
            f"FAISS cannot hold this index on {device} ({_reason(error)}); search on the CPU, which is the default, or "
            "build it with `comem-lmms kb index --type flat` or ivf"
        ) from error


def _reason(error: RuntimeError) -> str:
    """What FAISS says, without the name of the C++ function before it, which may be the longer part."""
    return one_line(RuntimeError(re.sub(r"^Error in .*? at \S+:\d+: ", "", str(error), flags=re.DOTALL)))


def _remedy(knowledge: KnowledgeBase) -> str:
    return f"build it again with `comem-lmms kb index {knowledge.folder}`"


def _checked(folder: Path, knowledge: KnowledgeBase, limit: int | None = SMALL) -> dict[str, Any]:
    """What ``index.json`` holds, if index, embeddings and base belong together; larger ones are not read."""
    remedy = _remedy(knowledge)
    path = folder / "index.faiss"
    if not (folder / "index.json").is_file() or not path.is_file():
        raise UserError(
            f"knowledge base {knowledge.folder} has no index; run `comem-lmms kb embed {knowledge.folder} --clip "
            f"MODEL` and then `comem-lmms kb index {knowledge.folder}`"
        )
    about = read_json(folder / "index.json", *_NEEDED)
    if about.get("items") != len(knowledge):
        raise UserError(f"index {folder} is of {about.get('items')} items but the base has {len(knowledge)}; {remedy}")
    if (size := path.stat().st_size) != about.get("bytes"):
        raise UserError(f"index {path} has {size:,} bytes, not {about.get('bytes'):,}: it is damaged; {remedy}")
    if (limit is None or size <= limit) and about.get("index") != files_fingerprint([path]):
        raise UserError(f"index {path} is not the one that index.json describes; {remedy}")
    if about["reranked"] is True:
        raise UserError(f"index {folder} does not say how much of what it finds is to be compared; {remedy}")
    if about.get("knowledge") != knowledge.fingerprint:
        raise UserError(
            f"index {folder} belongs to knowledge base {str(about.get('knowledge'))[:12]}, not to "
            f"{knowledge.fingerprint[:12]} in {knowledge.folder}; {remedy}"
        )
    if (manifest := knowledge.folder / EMBEDDINGS / MANIFEST).is_file():
        found = str(read_json(manifest).get("fingerprint"))
        if about.get("embeddings") != found:
            raise UserError(
                f"index {folder} is of embeddings {str(about.get('embeddings'))[:12]}, but {manifest.parent} holds "
                f"{found[:12]}; {remedy}"
            )
    return about


def _reranked(
    embeddings: Embeddings, queries: np.ndarray, numbers: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of some images for each query, by their own vectors; those of few queries are in memory at a time."""
    scores = np.empty(numbers.shape, np.float32)
    few = max(1, COMPARED // numbers.shape[1])
    for first in range(0, len(numbers), few):
        part = slice(first, first + few)
        vectors = embeddings.take(np.maximum(numbers[part], 0).ravel()).reshape(*numbers[part].shape, -1)
        scores[part] = np.einsum("qd,qkd->qk", queries[part], vectors)
    scores[numbers < 0] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(numbers, best, 1)


def _filled(factory: str, embeddings: Embeddings, device: str) -> faiss.Index:
    """A new index of all vectors; besides it, a sample to train from and one file of vectors are in memory."""
    index = faiss.index_factory(embeddings.dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexScalarQuantizer) and factory == EXACT:
        return _exact(index, embeddings)
    found = faiss.try_extract_index_ivf(index)
    ivf: Any = None if found is None else faiss.downcast_index(found)
    if isinstance(ivf, faiss.IndexIVFScalarQuantizer) and ivf.sq.qtype == faiss.ScalarQuantizer.QT_fp16:
        ivf.by_residual = False  # codes are the vectors themselves, so scores are those of exact search
    if not index.is_trained:
        if len(embeddings) < (least := _clusters(ivf or faiss.downcast_index(index))):
            raise UserError(
                f"an index {factory!r} is trained from {least:,} vectors at the least, and the base has "
                f"{len(embeddings):,}; give --type flat"
            )
        most = max(PER_LIST * (ivf.nlist if ivf else 0), 40_000)
        numbers = np.linspace(0, len(embeddings) - 1, min(most, len(embeddings))).astype(np.int64)
        if ivf and device.startswith("cuda"):
            ivf.clustering_index = to_device(faiss.IndexFlatIP(embeddings.dimension), device)
        index.train(embeddings.take(numbers))
    for shard in tqdm(embeddings.shards(), total=len(embeddings.about["files"]), desc="Indexing", unit="file"):
        index.add(shard.astype(np.float32))
    return index


def _clusters(index: Any) -> int:
    """The largest number of centroids that training makes, each of which takes a vector."""
    return max(getattr(index, "nlist", 0), index.pq.ksub if hasattr(index, "pq") else 0)


def _exact(index: faiss.IndexScalarQuantizer, embeddings: Embeddings) -> faiss.IndexScalarQuantizer:
    """The files one after the other; `add` would double the memory whenever it runs out of it."""
    codes = _room(index, len(embeddings))
    start = 0
    for shard in embeddings.shards():
        codes[start : start + len(shard)] = shard.view(np.uint8)
        start += len(shard)
    return index


def _room(index: faiss.IndexFlatCodes, n: int) -> np.ndarray:
    """Makes an index hold n vectors in memory of its own, still to be filled: (n, bytes) uint8."""
    index.codes = faiss.MaybeOwnedVectorUInt8()  # what was mapped cannot be made larger or smaller
    index.codes.resize(n * index.code_size)
    index.ntotal = n
    return _codes(index)


def _codes(index: faiss.IndexFlatCodes) -> np.ndarray:
    """The stored vectors, (n, bytes) uint8, where they lie."""
    return faiss.rev_swig_ptr(index.codes.data(), index.codes.size()).reshape(-1, index.code_size)


def _divided(index: faiss.Index, start: int, stop: int) -> tuple[faiss.Index, int]:
    """The images from ``start`` to before ``stop`` of an index, and the number of the image that it calls 0."""
    if isinstance(index, faiss.IndexFlatCodes):
        codes = _codes(index)[start:stop].copy()
        _room(index, stop - start)[:] = codes
        return index, start
    ivf: Any = faiss.try_extract_index_ivf(index)  # the package's types lack what is called below
    if ivf is None:
        raise UserError(
            f"an index of type {type(index).__name__} cannot be divided among processes; build one with --type flat or "
            "ivf"
        )
    lists: Any = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    ivf.ntotal = ivf.invlists.copy_subset_to(lists, lists.SUBSET_TYPE_ID_RANGE, start, stop)
    ivf.replace_invlists(lists, True)
    lists.this.disown()
    return index, 0


def _write(folder: Path, index: faiss.Index, about: dict[str, Any]) -> None:
    path = folder / "index.faiss"
    try:
        folder.mkdir(exist_ok=True)
        with whole(path) as partial:
            faiss.write_index(index, str(partial))
            sync(partial)  # while the one that is there is whole
            (folder / "index.json").unlink(missing_ok=True)  # it is not of what comes now
        write_json(folder / "index.json", {**about, "bytes": path.stat().st_size, "index": files_fingerprint([path])})
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write index {path} ({one_line(error)}); put that right and run it again") from error
