"""``--model vanilla_rag``: the retrieved items in front of the question, as ordinary tokens."""

from collections.abc import Sequence

from comem_lmms.models.base import Chat
from comem_lmms.models.knowledge import RetrievingModel
from comem_lmms.prompts import rag_messages
from comem_lmms.records import Hit


class VanillaRAG(RetrievingModel):
    """Adds a turn with text and image for every item."""

    name = "vanilla_rag"

    def chat(self, messages: Chat, hits: Sequence[Hit]) -> Chat:
        """The question after the items, the best one next to it."""
        return rag_messages(messages, [self.knowledge[hit.row] for hit in hits])
