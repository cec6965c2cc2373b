"""``--model vanilla_rag``: the retrieved items in front of the question, as ordinary tokens."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from comem_lmms.models.arguments import Arguments, RagArguments
from comem_lmms.models.delegate import Chat
from comem_lmms.models.knowledge import RetrievingModel
from comem_lmms.prompts import LAYOUTS, layout_of
from comem_lmms.records import Hit


class VanillaRAG(RetrievingModel):
    """Adds the items' texts, and their images where the layout has them."""

    name = "vanilla_rag"
    arguments_type: ClassVar[type[Arguments]] = RagArguments
    arguments: RagArguments

    @cached_property
    def layout(self) -> str:
        """How items are put into words."""
        family = "" if self.base else layout_of(self.vlm.config.model_type, self.vlm.sees_images)
        return self.arguments.layout or family or "turns"

    def chat(self, messages: Chat, hits: Sequence[Hit]) -> Chat:
        """The question after the items, the best one next to it."""
        return LAYOUTS[self.layout](messages, [self.knowledge[hit.row] for hit in hits])
