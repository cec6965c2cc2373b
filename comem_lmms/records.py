"""What travels between the parts: a question, a knowledge item, a hit. Nothing here loads a model or a file."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from PIL import Image

Retrieval = Literal["clip", "oracle", "wrong"]  # how items are found; the last two are controls
KINDS: tuple[Retrieval, ...] = get_args(Retrieval)
By = Literal["image", "text", "both"]  # what of a question is searched with
Right = Literal["item_id", "entity"]  # what of a document tells controls its right items


@dataclass(frozen=True)
class KnowledgeItem:
    """One entry of a knowledge base: an image (or None) and a text about it."""

    id: str
    title: str
    text: str
    image: Image.Image | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Hit:
    """One retrieved item: ``row`` counts from 0 in the knowledge base, a higher ``score`` is better."""

    id: str
    row: int
    score: float


@dataclass(frozen=True)
class Query:
    """One question as a method sees it.

    Attributes:
        name: what errors call it, e.g. "document 3 of task microseek".
        messages: the chat, as lmms-eval's ``doc_to_messages`` made it.
        image: the image to retrieve by, None if the question has none.
        entity: the title of the page that the question is about where the task tells, for controls in runs.
        text: what is asked, to retrieve by in place of the image or with it.
        gold: the id of the right knowledge item where the document tells (``item_id``), for controls and recall.
    """

    name: str
    messages: list[dict[str, Any]] = field(repr=False)
    image: Image.Image | None = field(default=None, repr=False)
    gold: str | None = None
    text: str = ""
    entity: str | None = None
