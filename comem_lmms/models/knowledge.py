"""What the two wrappers with knowledge share: the knowledge base and the retriever, the same for both."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.models.arguments import Arguments, KnowledgeArguments
from comem_lmms.models.base import KnowledgeModel
from comem_lmms.records import KINDS, By, Hit, Query
from comem_lmms.runs import Replay, Run

if TYPE_CHECKING:
    from comem_lmms.retrieval import Retriever


class RetrievingModel(KnowledgeModel):
    """Gives each question the top-k items of a knowledge base."""

    arguments_type: ClassVar[type[Arguments]] = KnowledgeArguments
    arguments: KnowledgeArguments

    def prepare_knowledge(self) -> None:
        """Opens the knowledge base, and its index or the run that was made with it."""
        self.knowledge = KnowledgeBase.open(micro.resolve(self.arguments.knowledge, "knowledge"))
        self.retriever = self._retriever()
        self.fingerprints |= {"knowledge": self.knowledge.fingerprint, "retrieval": self.retriever.fingerprint}

    @property
    def retrieval(self) -> str:
        """How items are found: clip, oracle or wrong."""
        return self.retriever.kind

    @property
    def by(self) -> By:
        """What of a question is searched with."""
        return self.retriever.by

    def retrieve(self, queries: Iterator[Query]) -> Iterator[list[Hit]]:
        """The top-k hits of each question."""
        return self.retriever.search(queries, self.arguments.top_k)

    def _retriever(self) -> "Retriever | Replay":
        a = self.arguments
        if Path(a.retrieval).is_dir() and a.retrieval not in KINDS:
            if a.clip or a.clip_pretrained:
                raise UserError(f"clip={a.clip or a.clip_pretrained!r} has no use with a retrieval run; leave it out")
            return Replay(Run.open(a.retrieval), self.knowledge, a.top_k)
        from comem_lmms.retrieval import Retriever  # open_clip and FAISS, which a run does without

        return Retriever(self.knowledge, a.retrieval, a.clip, a.clip_pretrained, self.placement, a.top_k)
