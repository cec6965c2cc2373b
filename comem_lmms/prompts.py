"""How knowledge is laid out in words: chat messages and knowledge items in, chat messages out.

Messages are lmms-eval's: ``[{"role": ..., "content": [{"type": "image", "url": PIL.Image}, {"type": "text", ...}]}]``.
The best item always stands next to the question, in the prompt of RAG as in the prefix of CoMEM.
"""

from collections.abc import Sequence
from typing import Any

from comem_lmms.records import KnowledgeItem

Message = dict[str, Any]

# The reference cuts the text of an item at 5,000 characters, not tokens.
MAX_ITEM_CHARACTERS = 5000
# What the user turn of an item says while it is being encoded (the reference's wording, a leading space included).
ENCODE_INSTRUCTION = " Similar image and text knowledge for reference"


def item_text(item: KnowledgeItem) -> str:
    """The words of an item: ``title: text``, or the one that is there, at most 5,000 characters."""
    return ": ".join(part for part in (item.title, item.text) if part)[:MAX_ITEM_CHARACTERS]


def rag_messages(messages: Sequence[Message], items: Sequence[KnowledgeItem]) -> list[Message]:
    """Puts one user turn [text, image] an item before the first turn that is not a system turn.

    Args:
        messages: the question as lmms-eval made it; not changed.
        items: best first; they appear in reverse, so that the best one is next to the question.
    """
    start = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    turns: list[Message] = [{"role": "user", "content": _item_content(item)} for item in reversed(items)]
    return [*messages[:start], *turns, *messages[start:]]


def item_messages(item: KnowledgeItem) -> list[Message]:
    """An item as a chat, for encoding it: image and instruction from the user, the text from the assistant."""
    image: list[dict[str, Any]] = [] if item.image is None else [{"type": "image", "url": item.image}]
    return [
        {"role": "user", "content": [*image, {"type": "text", "text": ENCODE_INSTRUCTION}]},
        {"role": "assistant", "content": [{"type": "text", "text": item_text(item)}]},
    ]


def _item_content(item: KnowledgeItem) -> list[dict[str, Any]]:
    text: list[dict[str, Any]] = [{"type": "text", "text": item_text(item)}]
    return text if item.image is None else [*text, {"type": "image", "url": item.image}]
