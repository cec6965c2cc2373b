"""Which index, and is it good enough: numbers of vectors and bytes of memory in, a FAISS factory string out; an index
in, its recall@10 beside exact search out.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch

from comem_lmms.errors import UserError
from comem_lmms.files import readable_size
from comem_lmms.retrieval.embeddings import Embeddings

EXACT = "SQfp16"  # the embeddings are float16: nothing is lost, and a GPU holds them so too
# np: without the training for polysemous search, which takes minutes and is not used.
NAMES = {"flat": EXACT, "hnsw": f"HNSW32,{EXACT}", "ivf": f"IVF{{nlist}},{EXACT}", "pq": "IVF{nlist},PQ{quantiser}np"}
# What is compared with the embeddings for each image that is asked for, where 8 bits a dimension and where codes stand
# for a vector. In a base of millions the nearest differ by less than 8 bits can tell.
RERANKED_8_BITS, RERANKED_CODES = 4, 20
EXACT_ON_CPU = 200_000  # vectors that a processor searches exactly without being slow
PER_LIST = 40  # vectors a centroid is trained from; FAISS asks for 39
QUERIES, K = 500, 10
NOISE = 0.5  # length of what is added to a vector of the base; the cosine with it becomes 0.89
HARDLY = 0.002  # recall
BLOCK = 1024

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class Choice(NamedTuple):
    """An index that FAISS makes of ``factory``, why it was chosen, in one line, and how much of what it finds is
    compared with the embeddings themselves, as a multiple of what is asked for."""

    factory: str
    why: str
    reranked: int = 0


def choose(kind: str, n: int, dimension: int, memory: float | None = None, device: str = "cpu") -> Choice:
    """The index for n vectors.

    Args:
        kind: "auto", "flat", "hnsw", "ivf", "pq", or a FAISS factory string.
        memory: bytes that the index may take; default: half of what the machine or the GPU has.

    Raises:
        UserError: nothing fits in the memory.
    """
    nlist = max(1, min(int(4 * n**0.5), n // PER_LIST))
    quantiser = next(m for m in range(max(dimension // 4, 1), 0, -1) if dimension % m == 0)
    if kind != "auto":
        factory = NAMES.get(kind, kind).format(nlist=nlist, quantiser=quantiser)
        return Choice(factory, f"{kind}, as asked for", RERANKED_CODES if kind == "pq" else 0)
    room = _half_of(device) if memory is None else memory
    on_gpu = device.startswith("cuda")
    exact = 2 * dimension * n
    if exact <= room and (on_gpu or n <= EXACT_ON_CPU):
        few = f"{n:,} vectors are few enough and take {readable_size(exact)}"
        return Choice(EXACT, f"exact search over float16: {few}")
    sizes = {
        EXACT: (2 * dimension, 0),
        "SQ8": (dimension, RERANKED_8_BITS),
        f"PQ{quantiser}np": (quantiser, RERANKED_CODES),
    }
    too_much = f"exact search over {n:,} vectors " + ("is slow" if exact <= room else f"takes {readable_size(exact)}")
    for code, (size, reranked) in sizes.items():
        needs = n * (size + 8) + nlist * 4 * dimension  # 8 bytes are a vector's number
        if needs <= room:
            also = ", and compares what it finds with the embeddings on disk" if reranked else ""
            fits = f"this takes {readable_size(needs)} of {readable_size(room)}{also}"
            return Choice(f"IVF{nlist},{code}", f"{too_much}; {fits}", reranked)
    raise UserError(
        f"{n:,} vectors of {dimension} dimensions take {readable_size(needs)} at the least, and the memory is "
        f"{readable_size(room)}; give more with --memory, or divide the base among processes"
    )


class Sample:
    """Queries like photographs of what the base shows: some of its vectors with noise, and their exact answers."""

    def __init__(self, embeddings: Embeddings, device: str = "cpu") -> None:
        rng = np.random.default_rng(0)
        numbers = rng.choice(len(embeddings), min(QUERIES, len(embeddings)), replace=False)
        vectors = embeddings.take(numbers)
        noise = rng.normal(size=vectors.shape).astype(np.float32)
        vectors += NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        self.queries = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.k = min(K, len(embeddings))
        self._embeddings = embeddings
        self._worst = nearest(embeddings, self.queries, self.k, device)[0][:, -1:]

    def recall(self, search: Search) -> float:
        """The share of what is found that is no farther than the k-th nearest; so twins of it count too."""
        _, numbers = search(self.queries, self.k)
        vectors = self._embeddings.take(np.maximum(numbers, 0).ravel()).reshape(*numbers.shape, -1)
        scores = np.einsum("qd,qkd->qk", self.queries, vectors)
        return float(((scores >= self._worst - 1e-5) & (numbers >= 0)).mean())


def nearest(embeddings: Embeddings, queries: np.ndarray, k: int, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """Scores and numbers (n, k) of the nearest by comparing with every vector; holds one block of them at a time."""
    asked = torch.from_numpy(queries).to(device)
    best, numbers, start = torch.empty(len(asked), 0, device=device), torch.empty(len(asked), 0).long().to(device), 0
    for shard in embeddings.shards():
        for first in range(0, len(shard), BLOCK):
            block = torch.from_numpy(shard[first : first + BLOCK].astype(np.float32)).to(device)  # (BLOCK, d)
            scores, found = (asked @ block.T).topk(min(k, len(block)))
            best, places = torch.cat([best, scores], 1).topk(min(k, best.shape[1] + scores.shape[1]))
            numbers = torch.cat([numbers, found + start + first], 1).gather(1, places)
        start += len(shard)
    return best.cpu().numpy(), numbers.cpu().numpy()


def tune(
    index: faiss.Index, space: faiss.ParameterSpace, search: Search, sample: Sample, least: float, kind: str
) -> tuple[str, float]:
    """Sets how far an index, which ``search`` asks, searches to the least that reaches a recall.

    Args:
        index: what to set it of, by ``space``.
        search: what asks the index.
        sample: what to ask, and what should be found.
        least: the recall.
        kind: of the index, as for `choose`.

    Returns:
        What was set, as ``nprobe=8``, "" for an index that has nothing to set; and the recall.

    Raises:
        UserError: the recall cannot be reached. Where twice as far finds hardly more, no farther is tried: in a large
            base that would take hours.
    """
    name, low, high = _parameter(index)
    if not name:
        return "", _enough(sample.recall(search), least, "", kind)

    def recall(value: int) -> float:
        space.set_index_parameter(index, name, value)
        return sample.recall(search)

    value, before = low, 0.0
    while (reached := recall(value)) < least and value < high and reached - before >= HARDLY:
        low, value, before = value, min(2 * value, high), reached
    farther = "that is the most" if value == high else "hardly more farther on"
    _enough(reached, least, f" at {name}={value}, and {farther}", kind)
    while value - low > max(1, value // 10):  # less than a tenth more than what is needed will do
        middle = (low + value) // 2
        low, value = (low, middle) if recall(middle) >= least else (middle, value)
    return f"{name}={value}", recall(value)


def _parameter(index: Any) -> tuple[str, int, int]:
    """What decides how far an index searches, and from where to where."""
    if (ivf := faiss.try_extract_index_ivf(index)) is not None:
        return "nprobe", 1, ivf.nlist
    if hasattr(index, "nprobe"):  # on a GPU
        return "nprobe", 1, index.nlist
    if hasattr(index, "hnsw"):
        return "efSearch", 16, 4096
    return "", 0, 0


def _enough(reached: float, least: float, where: str, kind: str) -> float:
    if reached < least:
        more = "more --memory, " if kind == "auto" else ""  # which no other index is chosen by
        raise UserError(
            f"the index finds {reached:.3f} of the 10 nearest{where}, not {least}; give {more}another --type, or a "
            "lower --min-recall"
        )
    return reached


def _half_of(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[1] / 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
