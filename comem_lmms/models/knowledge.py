"""What the two wrappers with knowledge share: the knowledge base and the retriever, the same for both."""

from collections.abc import Iterator
from typing import ClassVar

from comem_lmms import micro
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.models.arguments import Arguments, KnowledgeArguments
from comem_lmms.models.base import KnowledgeModel
from comem_lmms.records import Hit, Query
from comem_lmms.retrieval import Retriever


class RetrievingModel(KnowledgeModel):
    """Gives each question the top-k items of a knowledge base."""

    arguments_type: ClassVar[type[Arguments]] = KnowledgeArguments
    arguments: KnowledgeArguments

    def prepare_knowledge(self) -> None:
        """Opens the knowledge base and its index."""
        a = self.arguments
        self.knowledge = KnowledgeBase.open(micro.resolve(a.knowledge, "knowledge"))
        self.retriever = Retriever(self.knowledge, a.retrieval, a.clip, a.clip_pretrained, self.placement, a.top_k)
        self.fingerprints |= {"knowledge": self.knowledge.fingerprint, "retrieval": self.retriever.fingerprint}

    @property
    def retrieval(self) -> str:
        """How items are found: clip, oracle or wrong."""
        return self.arguments.retrieval

    def retrieve(self, queries: Iterator[Query]) -> Iterator[list[Hit]]:
        """The top-k hits of each question."""
        return self.retriever.search(queries, self.arguments.top_k)
