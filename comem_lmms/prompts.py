"""How knowledge is laid out in words: chat messages and knowledge items in, chat messages out.

Messages are lmms-eval's: ``[{"role": ..., "content": [{"type": "image", "url": PIL.Image}, {"type": "text", ...}]}]``.
The best item always stands next to the question, in the prompt of RAG as in the prefix of CoMEM.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from comem_lmms.records import KnowledgeItem

Message = dict[str, Any]
Layout = Literal["turns", "turn", "text", "text_only"]

# The reference cuts the text of an item at 5,000 characters, not tokens; for LLaVA-1.5 at 500.
MAX_ITEM_CHARACTERS = 5000
MAX_SHORT_ITEM_CHARACTERS = 500
# What the user turn of an item says while it is being encoded (the reference's wording, a leading space included).
ENCODE_INSTRUCTION = " Similar image and text knowledge for reference"
# How the reference words items that are text in front of a question, and where it puts two spaces.
_REFERENCE = "Reference Information: "
_NEXT_REFERENCE = "Reference Information:  "
_SYSTEM = {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}
# What stands for an image in the text of a simple model: <image>, or <image 2> for the second.
_MARKER = re.compile(r"<image(?: (\d+))?>")


def item_text(item: KnowledgeItem) -> str:
    """The words of an item: ``title: text``, or the one that is there, at most 5,000 characters."""
    return ": ".join(part for part in (item.title, item.text) if part)[:MAX_ITEM_CHARACTERS]


def rag_messages(messages: Sequence[Message], items: Sequence[KnowledgeItem]) -> list[Message]:
    """Layout ``turns``: one user turn [text, image] an item before the first turn that is not a system turn.

    Args:
        messages: the question as lmms-eval made it; not changed.
        items: best first; they appear in reverse, so that the best one is next to the question.
    """
    start = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    turns: list[Message] = [{"role": "user", "content": _item_content(item)} for item in reversed(items)]
    return [*messages[:start], *turns, *messages[start:]]


def single_turn_messages(messages: Sequence[Message], items: Sequence[KnowledgeItem]) -> list[Message]:
    """Layout ``turn``: as ``turns``, but all in the question's own turn; arguments as of `rag_messages`.

    For chat templates that refuse two user turns in a row.
    """
    at = next(i for i, message in enumerate(messages) if message["role"] == "user")
    parts = [part for item in reversed(items) for part in _item_content(item)]
    turn = {**messages[at], "content": [*parts, *messages[at]["content"]]}
    return [*messages[:at], turn, *messages[at + 1 :]]


def item_messages(item: KnowledgeItem) -> list[Message]:
    """An item as a chat, for encoding it: image and instruction from the user, the text from the assistant."""
    image: list[dict[str, Any]] = [] if item.image is None else [{"type": "image", "url": item.image}]
    return [
        {"role": "user", "content": [*image, {"type": "text", "text": ENCODE_INSTRUCTION}]},
        {"role": "assistant", "content": [{"type": "text", "text": item_text(item)}]},
    ]


def text_messages(messages: Sequence[Message], items: Sequence[KnowledgeItem]) -> list[Message]:
    """Layout ``text``: the items' texts, at most 500 characters each, at the head of the question's own text.

    The question keeps its images, the items' are left out; arguments as of `rag_messages`.
    """
    if not items:
        return list(messages)
    texts = [item_text(item)[:MAX_SHORT_ITEM_CHARACTERS] for item in reversed(items)]
    return _with_head(messages, "".join(_REFERENCE + text for text in texts))


def text_only_messages(messages: Sequence[Message], items: Sequence[KnowledgeItem]) -> list[Message]:
    """Layout ``text_only``: as ``text``, uncut and worded for text-only models, under a system turn if there is none.

    It is for models that drop the images of a question themselves; arguments as of `rag_messages`.
    """
    if not items:
        return list(messages)
    texts = _NEXT_REFERENCE.join(item_text(item) for item in reversed(items))
    system = [] if messages[0]["role"] == "system" else [_SYSTEM]
    return [*system, *_with_head(messages, f"{_REFERENCE}{texts}Question: ")]


LAYOUTS: dict[str, Callable[[Sequence[Message], Sequence[KnowledgeItem]], list[Message]]] = {
    "turns": rag_messages,
    "turn": single_turn_messages,
    "text": text_messages,
    "text_only": text_only_messages,
}
# By model_type, where it is not turns: as the reference does, or since the chat template wants roles to alternate.
_FAMILY_LAYOUTS: dict[str, Layout] = {"llava": "text", "gemma3": "turn"}


def layout_of(model_type: str, sees_images: bool = True) -> Layout:
    """The layout for a family of models: the reference's, where it has one."""
    return _FAMILY_LAYOUTS.get(model_type, "turns") if sees_images else "text_only"


def one_turn(
    layout: Callable[[list[Message]], list[Message]], question: str, images: Sequence[Any] = ()
) -> tuple[str, list[Any]]:
    """A question with its knowledge as one text and a list of images, for models that take no messages.

    Such models put the images in front of the text, unless the question has markers that say where they stand. Then
    the items' images get markers of the same kind, and numbers in the question are moved behind theirs.

    Args:
        layout: puts items in front of a chat.
        question, images: as the model would get them without items; returned unchanged if there are none.
    """
    chat = layout([{"role": "user", "content": [{"type": "text", "text": ""}]}])
    parts = [part for message in chat if message["role"] == "user" for part in message["content"]]
    of_items = [part["url"] for part in parts if part["type"] == "image"]
    markers = iter(_markers(question, len(of_items)))
    lines = [_unmarked(part["text"]) if part["type"] == "text" else next(markers) for part in parts]
    head = "\n".join(line for line in lines if line is not None)
    return head + _renumbered(question, len(of_items)), [*of_items, *images]


def _item_content(item: KnowledgeItem) -> list[dict[str, Any]]:
    text: list[dict[str, Any]] = [{"type": "text", "text": item_text(item)}]
    return text if item.image is None else [*text, {"type": "image", "url": item.image}]


def _with_head(messages: Sequence[Message], head: str) -> list[Message]:
    """The messages with ``head`` in front of the first user turn's text, which may be missing."""
    at = next(i for i, message in enumerate(messages) if message["role"] == "user")
    content = messages[at]["content"]
    first = next((i for i, part in enumerate(content) if part["type"] == "text"), len(content))
    text = head + "".join(part["text"] for part in content[first : first + 1])
    content = [*content[:first], {"type": "text", "text": text}, *content[first + 1 :]]
    return [*messages[:at], {**messages[at], "content": content}, *messages[at + 1 :]]


def _markers(question: str, count: int) -> list[str | None]:
    """What stands for each of ``count`` images in front of a question; None for nothing."""
    marker = _MARKER.search(question)
    if marker is None:
        return [None] * count
    return [f"<image {n}>" if marker[1] else "<image>" for n in range(1, count + 1)]


def _renumbered(question: str, count: int) -> str:
    """The question with ``count`` images in front of its own."""
    return _MARKER.sub(lambda m: f"<image {int(m[1]) + count}>" if m[1] else m[0], question)


def _unmarked(text: str) -> str:
    """A text whose words cannot pose as an image's marker."""
    return _MARKER.sub(lambda m: f"< {m[0][1:]}", text)
