"""The best documents for a query by an inverted index: token ids in, documents and scores out, and no score missed.

Common tokens are in a good part of all documents and say little. So only documents that have one of the rarer tokens
are gathered, as many of them as it takes that no other document can be among the best (MaxScore, Turtle and Flood
1995); common tokens are looked up in those.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from comem_lmms.linking.postings import Postings

DIGITS = 9  # scores that differ later are equal: there the order of summation decides
SLACK = 1e-6  # a document is out if its score is lower than this below the needed one; far above errors of rounding
SAMPLE = 4096  # postings of the rarest tokens, whose best documents show what score is needed


class _Holders(NamedTuple):
    """The documents with one token of the query, and what it adds to each; with all its repeats, ``bound`` at most."""

    documents: np.ndarray  # (n,) int32, ascending
    weights: np.ndarray  # (n,) float64, of one occurrence in the query
    repeats: int
    bound: float

    def add_to(self, scores: np.ndarray, documents: np.ndarray) -> None:
        """Adds what the token adds to each of the documents, to its score."""
        places = np.searchsorted(self.documents, documents)
        places[places == len(self.documents)] = 0
        found = np.flatnonzero(self.documents[places] == documents)
        scores[found] += self.repeats * self.weights[places[found]]


def search(postings: Postings, tokens: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``k`` documents that have a token of the query (n,), and their scores (n,); best first, of equal ones the
    first document first."""
    query = [_holders(postings, token, repeats) for token, repeats in Counter(tokens).items()]
    query = [one for one in query if len(one.documents)]
    if not query:
        return np.zeros(0, np.int32), np.zeros(0)
    needed = _needed(query, k)
    gathered, rest = _split(query, needed)
    documents, scores = _union(gathered)
    least = needed - SLACK - sum(one.bound for one in rest)  # a document with less cannot be among the best
    documents, scores = _above(least, documents, scores)
    for one in rest:
        one.add_to(scores, documents)
        least += one.bound
        documents, scores = _above(least, documents, scores)
    scores = _scores(query, documents).round(DIGITS)
    best = np.lexsort((documents, -scores))[:k]
    return documents[best], scores[best]


def _holders(postings: Postings, token: int, repeats: int) -> _Holders:
    here = slice(postings.offsets[token], postings.offsets[token + 1])
    return _Holders(postings.documents[here], postings.weights[here], repeats, repeats * float(postings.bounds[token]))


def _needed(query: Sequence[_Holders], k: int) -> float:
    """A score that ``k`` documents reach, if there are as many with a rare token."""
    rare, size = [], 0
    for one in sorted(query, key=lambda one: len(one.documents)):
        if size >= k and size + len(one.documents) > SAMPLE:
            break
        rare.append(one)
        size += len(one.documents)
    documents, scores = _union(rare)
    n = k + 20
    if len(documents) > n:
        documents = documents[np.argpartition(scores, -n)[-n:]]
    scores = _scores(query, documents)
    return float(np.partition(scores, -k)[-k]) if len(scores) >= k else -np.inf


def _split(query: Sequence[_Holders], needed: float) -> tuple[list[_Holders], list[_Holders]]:
    """The tokens whose documents are gathered, and the others, which do not make up the needed score together."""
    gathered, rest = [], []
    left = needed - SLACK
    for one in sorted(query, key=lambda one: one.bound / len(one.documents)):
        if one.bound < left:
            left -= one.bound
            rest.append(one)
        else:
            gathered.append(one)
    return gathered, sorted(rest, key=lambda one: -one.bound)


def _union(holders: Sequence[_Holders]) -> tuple[np.ndarray, np.ndarray]:
    """The documents (n,) with any of the tokens, ascending, and their scores (n,) by these tokens alone."""
    documents = np.concatenate([one.documents for one in holders])
    weights = np.concatenate([one.repeats * one.weights for one in holders])
    if len(holders) == 1:
        return documents, weights
    keys = documents.astype(np.int64) << 32 | np.arange(len(documents))
    keys.sort()  # faster than argsort
    documents, order = (keys >> 32).astype(np.int32), keys & 0xFFFFFFFF
    first = np.flatnonzero(np.diff(documents, prepend=-1))
    return documents[first], np.add.reduceat(weights[order], first)


def _above(least: float, documents: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    enough = scores >= least
    return documents[enough], scores[enough]


def _scores(query: Sequence[_Holders], documents: np.ndarray) -> np.ndarray:
    """The whole scores of documents, summed in the order of the query."""
    scores = np.zeros(len(documents))
    for one in query:
        one.add_to(scores, documents)
    return scores
