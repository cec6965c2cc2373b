"""Documents of lmms-eval in, queries out, and the key by which a query is found in a retrieval run."""

from collections.abc import Callable
from typing import Any

from comem_lmms.errors import UserError, one_line
from comem_lmms.images import IMAGE_ERRORS, images_of, open_image
from comem_lmms.knowledge.rows import digest_of
from comem_lmms.records import By, Query, Right


def query_of(documents: Any, number: int, to_messages: Callable[[dict[str, Any]], Any], task: str) -> Query:
    """What is asked and searched for by a document: its chat, the chat's first image, the question, and its right item
    if it tells. The question is the document's `question` where it has one, without the wording of a prompt around it,
    else the text of the chat's last turn.

    Args:
        documents: of the task, by number; reading one decodes its images.
        number: of the document.
        to_messages: lmms-eval's ``doc_to_messages``.
        task: its name, for messages.

    Raises:
        UserError: the document or its image cannot be read.
    """
    name = f"document {number} of task {task}"
    try:
        doc = documents[number]
        messages = to_messages(doc)
        images = images_of(messages)
        image = open_image(images[0]["url"]) if images else None
    except IMAGE_ERRORS as error:
        raise UserError(f"{name} cannot be read ({one_line(error)}); repair or remove it") from error
    gold = doc.get("item_id")
    question = doc.get("question")
    text = question if isinstance(question, str) else _last_words(messages)
    return Query(name, messages, image, None if gold is None else str(gold), text)


def key_of(query: Query, kind: str, by: By = "image", right: Right = "item_id") -> bytes | None:
    """SHA-256 of what the hits of a query depend on: its pixels, its text or both and, in a control, its right item;
    None if it lacks what it is to be searched by.

    A document does not tell its entity to whoever answers it, so in a control by entity the question stands for it.

    The pixels are those of the decoded RGB image with its size, so neither the file's format nor the task matters.

    Args:
        kind: of the retrieval: "clip", "oracle" or "wrong".
        by: what is searched with.
        right: what tells a control the right items.
    """
    if lacks(query, by):
        return None
    if kind != "clip" and right == "entity":
        kind, by = "clip", by if by == "text" else "both"
    gold = None if kind == "clip" or query.gold is None else query.gold.encode()
    parts = [gold] if by == "image" else [gold, query.text.encode()]
    if by != "text":
        image: Any = query.image
        parts = [f"{image.width}x{image.height}".encode(), image.tobytes(), *parts]
    return digest_of(*parts).digest()


def lacks(query: Query, by: By) -> str | None:
    """Which of "image" and "text" a query would be searched by and does not have."""
    if by != "text" and query.image is None:
        return "image"
    return "text" if by != "image" and not query.text.strip() else None


def check(query: Query, by: By) -> Query:
    """The query.

    Raises:
        UserError: it cannot be searched by this.
    """
    if (lacking := lacks(query, by)) is not None:
        raise UserError(
            f"{query.name} has no {lacking}, and retrieval is by {by}; use --model baseline for tasks without "
            f"{lacking}s"
        )
    return query


def _last_words(messages: list[dict[str, Any]]) -> str:
    parts = messages[-1]["content"] if messages else []
    return "\n".join(part["text"] for part in parts if part["type"] == "text")
