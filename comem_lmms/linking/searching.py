"""The best documents for a query by an inverted index: token ids in, documents and scores out, and no score missed.

Common tokens are in a good part of all documents and say little. So all documents are gathered that have a rare token,
and of the others those that can be among the best; common tokens are looked up in these, and as soon as a document
cannot be among the best, it is left out (MaxScore, Turtle and Flood 1995). What it can still get goes by its length: a
document of three tokens has no more than three of the query, and in a long one each adds less. Without that, hardly any
could be left out for a query of many tokens.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from comem_lmms.linking.postings import LONG, TIMES, Postings

DIGITS = 9  # scores that differ later are equal: there the order of summation decides
SLACK = 1e-6  # a document is out if its score is lower than this below the needed one; far above errors of rounding
RARE = 1 << 14  # postings of the rarest tokens, which are gathered whole
SAMPLE = 256  # of their documents, the best ones, which show what score is needed
ROOM = np.array([0, *range(LONG - 1), np.inf])  # (LONG + 1,) how many more than one a document of each length can have


class _Holders(NamedTuple):
    """The documents with one token of the query, and what it adds to them."""

    documents: np.ndarray  # (n,) int32, ascending
    weights: np.ndarray  # (n,) float64, of one occurrence in the query
    repeats: int
    steps: np.ndarray  # (TIMES, LONG + 1) those of the index, for all repeats

    def add_to(self, scores: np.ndarray, documents: np.ndarray) -> None:
        """Adds what the token adds to each of the documents, to its score."""
        places = self.documents.searchsorted(documents)
        places[places == len(self.documents)] = 0
        found = (self.documents[places] == documents).nonzero()[0]
        scores[found] += self.repeats * self.weights[places[found]]


class _Scored(NamedTuple):
    """Documents, each once, and their scores by some of the tokens."""

    documents: np.ndarray  # (n,) int32
    scores: np.ndarray  # (n,) float64

    def where(self, chosen: np.ndarray) -> "_Scored":
        """Those of some places."""
        return _Scored(self.documents[chosen], self.scores[chosen])


def search(postings: Postings, tokens: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``k`` documents that have a token of the query (n,), and their scores (n,); best first, of equal ones the
    first document first."""
    query = [_holders(postings, token, repeats) for token, repeats in Counter(tokens).items()]
    query = sorted((one for one in query if len(one.documents)), key=lambda one: len(one.documents))
    if not query:
        return np.zeros(0, np.int32), np.zeros(0)
    found = _found(query, postings.lengths, k)
    scores = found.scores.round(DIGITS)
    best = np.lexsort((found.documents, -scores))[:k]
    return found.documents[best], scores[best]


def _holders(postings: Postings, token: int, repeats: int) -> _Holders:
    here = slice(postings.offsets[token], postings.offsets[token + 1])
    return _Holders(postings.documents[here], postings.weights[here], repeats, repeats * postings.steps[token])


def _found(query: Sequence[_Holders], lengths: np.ndarray, k: int) -> _Scored:
    """The best ``k`` documents and some more, with their scores; for tokens of which the rarest comes first."""
    rare, common = _split(query, k)
    gathered, left = _union([_scored(one) for one in rare]), _left(common)
    least = _needed(gathered, common, k) - SLACK
    grows = all(one.weights[0] >= 0 for one in query)  # else a document's score is not known before all are added
    found, least = _among_the_best(gathered, common, left, lengths, least, k if grows else None)
    for i, one in enumerate(common, 1):  # documents without a rare token, and of the common ones this one first
        if (one.steps.sum(0) + left[i]).max() >= least:
            others, least = _among_the_best(_scored(one), common[i:], left[i:], lengths, least, k if grows else None)
            if len(others.documents):
                others = others._replace(scores=_scores(query, others.documents))  # some have a rare token, too
                found = _both(found, others)
    return found


def _split(query: Sequence[_Holders], k: int) -> tuple[list[_Holders], list[_Holders]]:
    """The rare tokens, so many that ``k`` documents have one if any token has as many, and the common ones, those that
    add most first."""
    sizes = np.array([len(one.documents) for one in query])
    n = int(max(np.searchsorted(sizes.cumsum(), RARE, "right"), np.searchsorted(sizes, k) + 1))
    return list(query[:n]), sorted(query[n:], key=lambda one: -one.steps.sum(0).max())


def _scored(one: _Holders) -> _Scored:
    return _Scored(one.documents, one.repeats * one.weights)


def _union(parts: Sequence[_Scored]) -> _Scored:
    """The documents of all parts, ascending, and the sums of their scores."""
    if len(parts) == 1:
        return parts[0]
    documents = np.concatenate([one.documents for one in parts])
    scores = np.concatenate([one.scores for one in parts])
    keys = documents.astype(np.int64) << 32 | np.arange(len(documents))
    keys.sort()  # faster than argsort
    documents, order = (keys >> 32).astype(np.int32), keys & 0xFFFFFFFF
    first = np.concatenate([[True], documents[1:] != documents[:-1]]).nonzero()[0]
    return _Scored(documents[first], np.add.reduceat(scores[order], first))


def _both(some: _Scored, more: _Scored) -> _Scored:
    """The documents of two, ascending, with the scores of the first where they are in both."""
    documents, first = np.unique(np.concatenate([some.documents, more.documents]), return_index=True)
    return _Scored(documents, np.concatenate([some.scores, more.scores])[first])


def _left(tokens: Sequence[_Holders]) -> np.ndarray:
    """(n_tokens + 1, LONG + 1): the most that all tokens add to a document of each length that has another one; then
    all but the first, and so on, down to nothing."""
    n = len(tokens)
    steps = np.array([one.steps for one in tokens]).reshape(1, n, TIMES, LONG + 1)
    steps = steps * (np.arange(n) >= np.arange(n + 1)[:, None])[:, :, None, None]
    steps = np.sort(steps.reshape(n + 1, n * TIMES, LONG + 1), axis=1)[:, ::-1]
    return (steps * (np.arange(n * TIMES)[:, None] < ROOM)).sum(1)


def _needed(gathered: _Scored, common: Sequence[_Holders], k: int) -> float:
    """A score that ``k`` documents reach; from the documents with a rare token, and their scores by rare ones."""
    n = k + SAMPLE
    if len(gathered.documents) > n:
        gathered = gathered.where(np.argpartition(gathered.scores, -n)[-n:])
    return _kth(gathered.scores + _scores(common, gathered.documents), k)


def _kth(scores: np.ndarray, k: int) -> float:
    return float(np.partition(scores, -k)[-k]) if len(scores) >= k else -np.inf


def _among_the_best(
    some: _Scored, tokens: Sequence[_Holders], left: np.ndarray, lengths: np.ndarray, least: float, k: int | None
) -> tuple[_Scored, float]:
    """Those of documents with one token that reach the least score when others are added, ``left`` at most, and their
    scores with these; and the least score, raised if ``k`` of them have more (never for None)."""
    some = some.where((some.scores >= (least - left[0]).min()).nonzero()[0])
    long = lengths[some.documents]
    for one, rest in zip((None, *tokens), left, strict=True):
        if one:
            one.add_to(some.scores, some.documents)
            if k:
                least = max(least, _kth(some.scores, k) - SLACK)
        enough = (some.scores >= (least - rest)[long]).nonzero()[0]
        some, long = some.where(enough), long[enough]
    return some, least


def _scores(tokens: Sequence[_Holders], documents: np.ndarray) -> np.ndarray:
    """The scores of documents by these tokens alone."""
    scores = np.zeros(len(documents))
    for one in tokens:
        one.add_to(scores, documents)
    return scores
