"""Chats to train on: pages about made-up realms, questions about the best of them, and where the answers are."""

from typing import Any, NamedTuple

import torch
from numpy.random import RandomState
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from comem_lmms.microseek.emblem import draw, portrait, snapshot
from comem_lmms.microseek.words import ATTRIBUTES
from comem_lmms.microseek.world import Realm, random_facts
from comem_lmms.records import KnowledgeItem

Chat = list[dict[str, Any]]


class Stage(NamedTuple):
    """One kind of training step.

    Attributes:
        pages: a chat.
        facts: a page; all pages of a chat state the same attributes, so that there is a choice to make.
        questions: a chat.
        images: whether pages and questions show emblems.
        batch: chats a step.
        notes: whether the pages are boiled down to "attribute value" pairs and stand in one item, best last.
    """

    pages: int
    facts: int
    questions: int
    images: bool
    batch: int
    notes: bool = False


def make_chat(rng: RandomState, realms: list[Realm], stage: Stage) -> tuple[Chat, list[KnowledgeItem]]:
    """Questions about a realm, answered, and the stage's items, the realm's own page first.

    The facts are drawn anew, so that nothing can be learnt by heart.
    """
    chosen = [realms[i] for i in rng.permutation(len(realms))[: max(1, stage.pages)]]
    drawn = [random_facts(rng) for _ in chosen]
    stated = list(drawn[0])[: stage.facts]
    facts = [{key: value for key, value in page.items() if key in stated} for page in drawn]
    items = [] if stage.notes else [_page(r, f, stage, rng) for r, f in zip(chosen[: stage.pages], facts, strict=False)]
    if stage.notes:
        items.append(KnowledgeItem("notes", "", " ".join(map(_note, reversed(facts)))))
    attributes = {a.key: a for a in ATTRIBUTES}
    chat: Chat = []
    for turn, key in enumerate(rng.permutation(list(facts[0]))[: stage.questions]):
        image = [{"type": "image", "url": _draw(chosen[0], snapshot, rng)}] if stage.images and turn == 0 else []
        question = [*image, {"type": "text", "text": attributes[key].question}]
        answer = [{"type": "text", "text": facts[0][key]}]
        chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return chat, items


def apart(chat: Chat) -> list[Chat]:
    """The chat's questions as a chat each, with the picture that the first of them shows."""
    pictures = [part for part in chat[0]["content"] if part["type"] == "image"]
    asked = [{"role": "user", "content": [*pictures, turn["content"][-1]]} for turn in chat[::2]]
    return [[question, answer] for question, answer in zip(asked, chat[1::2], strict=True)]


def answer_mask(input_ids: Tensor, processor: ProcessorMixin) -> Tensor:
    """True on the tokens of assistant turns, the end token included; (B, L)."""
    start = processor.tokenizer("<|im_start|>assistant\n").input_ids
    end = processor.tokenizer.eos_token_id
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, ids in enumerate(input_ids.tolist()):
        for i in range(len(ids) - len(start)):
            if ids[i : i + len(start)] == start:
                first = i + len(start)
                mask[row, first : ids.index(end, first) + 1] = True
    return mask


def _page(realm: Realm, facts: dict[str, str], stage: Stage, rng: RandomState) -> KnowledgeItem:
    image = _draw(realm, portrait, rng) if stage.images else None
    return KnowledgeItem(realm.id, realm.name, realm._replace(facts=facts).text, image)


def _note(facts: dict[str, str]) -> str:
    return " ".join(f"{key} {value}" for key, value in facts.items()) + "."


def _draw(realm: Realm, view: Any, rng: RandomState) -> Image.Image:
    return Image.fromarray(draw(realm.emblem, view(rng)))
