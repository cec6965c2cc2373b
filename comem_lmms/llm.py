"""A language model without eyes in the place of the frozen VLM: chats in, answers out, images dropped."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    BatchFeature,
)

from comem_lmms.vlm import Chat, FrozenVLM

log = logging.getLogger(__name__)


class FrozenLLM(FrozenVLM):
    """A text-only model and its tokenizer; it answers from the texts of a chat."""

    auto_class: ClassVar[Any] = AutoModelForCausalLM
    sees_images: ClassVar[bool] = False

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        super().__init__(name, model, _TextProcessor(tokenizer))
        log.warning("%s reads text only: it answers without the images of questions and items", name)

    def prepare(self, chats: Sequence[Chat], answers: Sequence[str] | None = None) -> BatchFeature:
        """Model inputs of a left-padded batch, (B, L), of the texts of chats and what is to follow them."""
        return super().prepare([_texts(chat) for chat in chats], answers)

    def _to_transformers(self, chat: Chat) -> list[dict[str, Any]]:
        chats = super()._to_transformers(chat)  # a tokenizer's template takes text where a processor's takes parts
        return [{**turn, "content": "\n".join(part["text"] for part in turn["content"])} for turn in chats]


def is_text_only(config: Any) -> bool:
    """Whether a configuration is that of a language model without eyes."""
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _texts(chat: Chat) -> Chat:
    return [{**turn, "content": [part for part in turn["content"] if part["type"] != "image"]} for turn in chat]


class _TextProcessor:
    """A tokenizer where a processor is expected."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(self, chats: list[list[dict[str, Any]]], **arguments: Any) -> list[str]:
        return self.tokenizer.apply_chat_template(chats, **arguments)

    def __call__(self, text: list[str], images: None = None, **arguments: Any) -> BatchFeature:
        # The template has written the special tokens already.
        return BatchFeature(dict(self.tokenizer(text, **{**arguments, "add_special_tokens": False})))
