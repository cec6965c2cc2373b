"""Documents of lmms-eval in, queries out, and the key by which a query is found in a retrieval run."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from comem_lmms.errors import UserError, one_line
from comem_lmms.images import IMAGE_ERRORS, images_of, open_image
from comem_lmms.knowledge.rows import digest_of
from comem_lmms.records import Query


def query_of(documents: Any, number: int, to_messages: Callable[[dict[str, Any]], Any], task: str) -> Query:
    """What is asked and searched for by a document: its chat, the chat's first image, and its right item if it tells.

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
    return Query(name, messages, image, None if gold is None else str(gold))


def key_of(query: Query, kind: str) -> bytes:
    """SHA-256 of what the hits of a query depend on: its pixels and, in a control, its right item.

    The pixels are those of the decoded RGB image with its size, so neither the file's format nor the task matters.

    Args:
        query: one that `check_image` passes.
        kind: of the retrieval: "clip", "oracle" or "wrong".
    """
    image = check_image(query)
    gold = None if kind == "clip" or query.gold is None else query.gold.encode()
    return digest_of(f"{image.width}x{image.height}".encode(), image.tobytes(), gold).digest()


def check_image(query: Query) -> Image.Image:
    """The image of a query.

    Raises:
        UserError: it has none.
    """
    if query.image is None:
        raise UserError(
            f"{query.name} has no image, and retrieval is by image; use --model baseline for tasks without images"
        )
    return query.image
