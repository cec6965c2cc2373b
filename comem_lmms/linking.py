"""Free text to a Wikidata entity: a text in, the titles that match it best out, by BM25 over a corpus of titles.

The rule of OVEN's authors (run_bm25_index.py and run_bm25_query.py of edchengg/oven_eval): WordPiece tokens of
bert-base-uncased, and rank_bm25's Okapi with its defaults. Their index is a Python object for each title; this is an
inverted index of a few numpy arrays, which give the same scores.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from comem_lmms.errors import UserError

Tokenise = Callable[[str], Sequence[int]]

K1, B, EPSILON = 1.5, 0.75, 0.25  # rank_bm25's defaults
DIGITS = 9  # scores that differ later are equal: there the order of summation decides


class Linked(NamedTuple):
    """An entity that a text was linked to; a higher score is better."""

    id: str
    title: str
    score: float


class Postings(NamedTuple):
    """An inverted index: token ``t`` is in ``documents[offsets[t]:offsets[t + 1]]``, ``counts`` times in each.

    Plain arrays, so they can be saved and mapped into memory one by one.
    """

    offsets: np.ndarray  # (n_tokens + 1,) int64
    documents: np.ndarray  # (n_postings,) int32, ascending for each token
    counts: np.ndarray  # (n_postings,) int32
    lengths: np.ndarray  # (n_documents,) int32, in tokens

    @classmethod
    def build(cls, documents: Iterable[Sequence[int]], n_tokens: int) -> "Postings":
        """From the token ids (0 to ``n_tokens - 1``) of each document."""
        arrays = [np.asarray(tokens, np.int64) for tokens in documents]
        lengths = np.array([len(tokens) for tokens in arrays], np.int32)
        rows = np.repeat(np.arange(len(arrays)), lengths)
        width = max(len(arrays), 1)
        pairs, counts = np.unique(np.concatenate([*arrays, np.zeros(0, np.int64)]) * width + rows, return_counts=True)
        offsets = np.searchsorted(pairs, np.arange(n_tokens + 1) * width)
        return cls(offsets, (pairs % width).astype(np.int32), counts.astype(np.int32), lengths)


class TitleIndex:
    """Titles and their Wikidata ids, searchable by BM25.

    Attributes:
        postings: the inverted index, whose documents are the titles in the order given.
    """

    def __init__(self, postings: Postings, ids: Sequence[str], titles: Sequence[str], tokenise: Tokenise) -> None:
        if not len(ids) == len(titles) == len(postings.lengths) or not len(ids):
            raise UserError(
                f"an index needs as many ids and titles as documents, and at least one; there are {len(ids)} ids, "
                f"{len(titles)} titles and {len(postings.lengths)} documents"
            )
        self.postings, self._ids, self._titles, self._tokenise = postings, ids, titles, tokenise

    @classmethod
    def build(cls, ids: Sequence[str], titles: Sequence[str], vocabulary: Path) -> "TitleIndex":
        """Over the titles, tokenised with a BERT vocabulary file (vocab.txt, one token a line)."""
        tokenise, n_tokens = wordpiece(vocabulary)
        return cls(Postings.build(map(tokenise, titles), n_tokens), ids, titles, tokenise)

    def link(self, text: str) -> Linked | None:
        """The entity with the best title, None for a text that shares no token with any."""
        return next(iter(self.search(text, 1)), None)

    def search(self, text: str, k: int = 5) -> list[Linked]:
        """At most ``k`` titles that share a token with the text, best first; of equal ones the earlier in the corpus.

        OVEN's scripts order equal ones arbitrarily, and so link an empty text to any title; here it has none.
        """
        documents, scores = self._scores(text)
        if len(documents) > k:
            enough = scores >= np.partition(scores, -k)[-k]
            documents, scores = documents[enough], scores[enough]
        best = np.lexsort((documents, -scores))[:k]
        return [
            Linked(self._ids[row], self._titles[row], float(score))
            for row, score in zip(documents[best].tolist(), scores[best], strict=True)
        ]

    def _scores(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The documents with any token of the text, ascending, and their scores."""
        index = self.postings
        scores, found = np.zeros(len(index.lengths)), np.zeros(len(index.lengths), bool)
        for token, repeats in Counter(self._tokenise(text)).items():
            here = slice(index.offsets[token], index.offsets[token + 1])
            documents, counts = index.documents[here], index.counts[here]
            damped = counts + K1 * (1 - B + B * index.lengths[documents] / self._mean_length)
            scores[documents] += repeats * self._idf[token] * counts * (K1 + 1) / damped
            found[documents] = True
        documents = np.flatnonzero(found)
        return documents, scores[documents].round(DIGITS)

    @cached_property
    def _mean_length(self) -> float:
        return float(self.postings.lengths.mean())

    @cached_property
    def _idf(self) -> np.ndarray:
        """For each token of the vocabulary. One in more than half of the titles would count against a title; it gets a
        quarter of the mean over all tokens that occur, negative ones among them, as in rank_bm25."""
        n_titles, holders = len(self.postings.lengths), np.diff(self.postings.offsets)
        idf = np.log(n_titles - holders + 0.5) - np.log(holders + 0.5)
        occurring = idf[holders > 0]
        return np.where(idf < 0, EPSILON * (occurring.mean() if len(occurring) else 0.0), idf)


def wordpiece(vocabulary: Path) -> tuple[Tokenise, int]:
    """A function from text to token ids as bert-base-uncased has it (lower case, no accents), and the number of ids.

    Not by transformers' ``BertTokenizer(vocab_file=...)``, whose version 5 gives [UNK] for every word.
    """
    from tokenizers import BertWordPieceTokenizer

    if not vocabulary.is_file():
        raise UserError(f"the vocabulary {vocabulary} does not exist; take vocab.txt of bert-base-uncased")
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)

    def tokenise(text: str) -> Sequence[int]:
        whole = text.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
        return tokenizer.encode(whole, add_special_tokens=False).ids

    return tokenise, tokenizer.get_vocab_size()
