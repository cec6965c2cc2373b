"""The retriever: queries in, for each the top-k hits of a knowledge base out, best first.

Images of items are searched with a query's image, as the paper does, with its text, or with both. Besides CLIP
retrieval there are two controls, which start from the CLIP ranking and need to know the right items: ``oracle`` moves
the best of them to the first place, ``wrong`` removes them. They are known by the document's ``item_id``, or in a run
by the title of its entity.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.knowledge.rows import same_title
from comem_lmms.queries import check
from comem_lmms.records import KINDS, By, Hit, Query, Right
from comem_lmms.retrieval.clip import BATCH, ClipEmbedder
from comem_lmms.retrieval.index import Index


class Retriever:
    """Retrieval over the images of one knowledge base.

    Args:
        knowledge: the base; its folder holds the index.
        kind: "clip", or one of the controls "oracle" and "wrong".
        clip, pretrained: the embedding model; by default the one the index was made with.
        top_k: what will be asked for, to be checked at once.
        per_image: items of one image that are taken at most; all by default.
        by: what of a query is searched with.
        text_weight: with ``by="both"``, that of the text, from 0 to 1; the image has the rest.
        titled: for controls by entity, the rows of each title (`same_title`) that is asked for.
        index: of the base; by default all of it, on the CPU.

    Raises:
        UserError: ``kind`` or ``text_weight`` is not one of these, or the index is missing, does not fit the base or
            the embedding model, or has not ``top_k`` items.
    """

    def __init__(
        self,
        knowledge: KnowledgeBase,
        kind: str = "clip",
        clip: str | None = None,
        pretrained: str | None = None,
        device: str | torch.device = "cpu",
        top_k: int = 0,
        per_image: int | None = None,
        by: By = "image",
        text_weight: float = 0.5,
        titled: Mapping[str, Sequence[int]] | None = None,
        index: Index | None = None,
    ) -> None:
        if kind not in KINDS:
            if "/" in kind:
                raise UserError(f"retrieval={kind!r}: there is no such folder; `comem-lmms retrieve` makes one")
            raise UserError(
                f"retrieval={kind!r} is unknown; choose one of {', '.join(KINDS)}, or the folder of a retrieval run"
            )
        if not 0 <= text_weight <= 1:
            raise UserError(f"the weight of the text is {text_weight}; give one from 0 (image alone) to 1 (text alone)")
        self.knowledge, self.kind, self.per_image = knowledge, kind, per_image
        self.by, self.text_weight = by, text_weight if by == "both" else None
        self.titled = titled
        self.right: Right = "item_id" if titled is None else "entity"
        self._index = index or Index.open(knowledge)
        self._check(top_k)
        about: dict[str, Any] = self._index.about
        if clip is None:
            clip, pretrained = about["clip"], pretrained or about["pretrained"]
        self._embedder = ClipEmbedder(clip, pretrained, device)
        self._index.check_embedder(self._embedder)

    @property
    def about(self) -> dict[str, Any]:
        """Of the index: what it was made of, and with which embedding model."""
        return self._index.about

    @property
    def fingerprint(self) -> str:
        """What the hits depend on: the knowledge base, the embedding model, the kind of retrieval and of query."""
        index = str(self._index.about["index"])
        parts = [self.kind, self.knowledge.fingerprint, self._embedder.fingerprint, index, str(self.per_image)]
        if self.by != "image":
            parts += [self.by, str(self.text_weight), self._embedder.text_fingerprint]
        if self.right != "item_id":
            parts.append(self.right)
        if times := self._index.about["reranked"]:  # the same file may be searched without
            parts.append(f"reranked {times}")
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def search(self, queries: Iterable[Query], k: int) -> Iterator[list[Hit]]:
        """The hits of each query, in order; ``queries`` may be a stream, of which one batch is held at a time.

        Raises:
            UserError: ``k`` exceeds the base, a query lacks what is searched with, or a control has no right item to go
                by.
        """
        self._check(k)
        stream = (check(query, self.by) for query in queries)
        depth = k + max(map(len, (self.titled or {}).values()), default=1)  # "wrong" drops as many
        while batch := list(islice(stream, BATCH)):
            scores, numbers = self._index.search(self._vectors(batch), min(depth, len(self._index)))
            for query, score, image in zip(batch, scores.tolist(), numbers.tolist(), strict=True):
                yield self._controlled(list(islice(self._hits(image, score), depth)), query)[:k]

    def _vectors(self, queries: list[Query]) -> np.ndarray:
        images = [query.image for query in queries if query.image is not None]
        if self.by == "image":
            return self._embedder.embed(images)
        texts = self._embedder.embed_texts([query.text for query in queries])
        return texts if self.by == "text" else mixed(self._embedder.embed(images), texts, self.text_weight or 0.0)

    def _hits(self, images: list[int], scores: list[float]) -> Iterator[Hit]:
        """The items that the images serve; those of one image in their order in the base."""
        for image, score in zip(images, scores, strict=True):
            rows = [] if image < 0 else self.knowledge.rows_of(image)  # -1 where the index found no more
            yield from (Hit(self.knowledge.id(row), row, score) for row in rows[: self.per_image])

    def _check(self, k: int) -> None:
        available = self.knowledge.n_pictured - (self.kind == "wrong")
        if not 0 <= k <= available:
            raise UserError(
                f"top_k={k} but knowledge base {self.knowledge.folder} has {available} items to find; lower top_k"
            )

    def _controlled(self, ranked: list[Hit], query: Query) -> list[Hit]:
        if self.kind == "clip":
            return ranked
        right = self._right(query)
        if self.kind == "wrong":
            return [hit for hit in ranked if hit.row not in right]
        if not right:
            return ranked
        first = next((hit.row for hit in ranked if hit.row in right), right[0])
        return [Hit(self.knowledge.id(first), first, 1.0), *(hit for hit in ranked if hit.row != first)]

    def _right(self, query: Query) -> Sequence[int]:
        """The rows of a query's right items; none where the base has no page of its entity."""
        if self.titled is not None:
            return self.titled.get(same_title(query.entity), ()) if query.entity else ()
        row = None if query.gold is None else self.knowledge.find(query.gold)
        if row is None:
            raise UserError(
                f"{self.kind} retrieval needs the id of the right item in the document's `item_id`, and {query.gold!r} "
                f"is not in knowledge base {self.knowledge.folder}; use clip (`comem-lmms retrieve --kind clip`, or "
                "retrieval=clip among model arguments)"
            )
        return [row]


def mixed(images: np.ndarray, texts: np.ndarray, weight: float) -> np.ndarray:
    """Vectors of queries by image and text: (1 - weight) image + weight text, made of length 1; all (n, d) float32."""
    vectors = (1 - weight) * images + weight * texts
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
