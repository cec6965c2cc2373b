"""An inverted index: the token ids of documents in, for each token the documents that have it, with their weights out.

A weight is all that a token adds to a document's score, computed once, so that searching only adds.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

K1, B, EPSILON = 1.5, 0.75, 0.25  # rank_bm25's defaults
LONG = 16  # documents of as many tokens or more have the same bounds
TIMES = 3  # so do those that have a token as many times or more


class Postings(NamedTuple):
    """Token ``t`` is in ``documents[offsets[t]:offsets[t + 1]]`` and adds the ``weights`` of the same places.

    To a document of a length it adds ``steps[t, 0, length]`` at most if it is there once, ``steps[t, 1, length]`` more
    if twice, and so on. Plain arrays, so they can be saved and mapped into memory one by one.
    """

    offsets: np.ndarray  # (n_tokens + 1,) int64
    documents: np.ndarray  # (n_postings,) int32, ascending for each token
    weights: np.ndarray  # (n_postings,) float64
    steps: np.ndarray  # (n_tokens, TIMES, LONG + 1) float64, at least 0
    lengths: np.ndarray  # (n_documents,) uint8, in tokens, at most LONG


class _Chunk(NamedTuple):
    """The postings of some documents in a row, by token and then by document."""

    holders: np.ndarray  # (n_tokens,) int32, how many documents have a token
    documents: np.ndarray  # (n,) int32
    counts: np.ndarray  # (n,) int32, how often the document has the token


class PostingsBuilder:
    """Takes documents some at a time, and keeps 8 bytes for each of their postings, and 4 for each document."""

    def __init__(self, n_tokens: int) -> None:
        self._n_tokens, self._n_documents = n_tokens, 0
        self._chunks: list[_Chunk] = []
        self._lengths: list[np.ndarray] = []

    def add(self, documents: Sequence[Sequence[int]]) -> None:
        """The next documents, as their token ids (0 to ``n_tokens - 1``); the more at a time the faster."""
        lengths = np.fromiter(map(len, documents), np.int32, len(documents))
        tokens = np.fromiter(chain.from_iterable(documents), np.int64, lengths.sum())
        rows = np.repeat(np.arange(len(documents)), lengths)
        width = max(len(documents), 1)
        pairs, counts = np.unique(tokens * width + rows, return_counts=True)
        tokens, rows = np.divmod(pairs, width)
        holders = np.bincount(tokens, minlength=self._n_tokens).astype(np.int32)
        self._chunks.append(_Chunk(holders, (rows + self._n_documents).astype(np.int32), counts.astype(np.int32)))
        self._lengths.append(lengths)
        self._n_documents += len(documents)

    def finish(self) -> Postings:
        """The index; the builder is empty afterwards."""
        lengths = np.concatenate([*self._lengths, np.zeros(0, np.int32)])  # (n_documents,)
        holders = sum((chunk.holders for chunk in self._chunks), np.zeros(self._n_tokens, np.int64))
        offsets = np.concatenate([[0], np.cumsum(holders)])
        documents, weights = np.empty(offsets[-1], np.int32), np.empty(offsets[-1])
        short, bounds = lengths.clip(max=LONG).astype(np.uint8), np.zeros((self._n_tokens, TIMES, LONG + 1))
        idf, free = _idf(holders, self._n_documents), offsets[:-1].copy()  # free: where a token's next posting goes
        damping = K1 * (1 - B + B * lengths / (lengths.mean() if offsets[-1] else 1.0))  # (n_documents,)
        for chunk in self._taken():
            places = np.repeat(free - np.cumsum(chunk.holders) + chunk.holders, chunk.holders)
            places += np.arange(len(places))
            documents[places] = chunk.documents
            parts = chunk.counts * (K1 + 1) / (chunk.counts + damping[chunk.documents])
            weights[places] = np.repeat(idf, chunk.holders) * parts
            tokens = np.repeat(np.arange(self._n_tokens), chunk.holders)
            times = chunk.counts.clip(max=TIMES) - 1
            np.maximum.at(bounds, (tokens, times, short[chunk.documents]), weights[places])
            free += chunk.holders
        steps = np.diff(np.maximum.accumulate(bounds, axis=1), axis=1, prepend=0)
        return Postings(offsets, documents, weights, steps, short)

    def _taken(self) -> Iterator[_Chunk]:
        """Each chunk in turn, not kept, so that memory is freed on the way."""
        self._chunks.reverse()
        while self._chunks:
            yield self._chunks.pop()


def _idf(holders: np.ndarray, n_documents: int) -> np.ndarray:
    """For each token of the vocabulary. One in more than half of the documents would count against them; it gets a
    quarter of the mean over all tokens that occur, negative ones among them, as in rank_bm25."""
    idf = np.log(n_documents - holders + 0.5) - np.log(holders + 0.5)
    occurring = idf[holders > 0]
    return np.where(idf < 0, EPSILON * (occurring.mean() if len(occurring) else 0.0), idf)
