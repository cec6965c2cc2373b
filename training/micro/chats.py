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
    """One kind of training step: pages a chat, facts a page, questions a chat, with or without images, chats a step."""

    pages: int
    facts: int
    questions: int
    images: bool
    batch: int


def make_chat(rng: RandomState, realms: list[Realm], stage: Stage) -> tuple[Chat, list[KnowledgeItem]]:
    """Questions about a realm, answered, and the stage's pages, the realm's own first.

    The facts are drawn anew, so that nothing can be learnt by heart.
    """
    chosen = [realms[i] for i in rng.permutation(len(realms))[: max(1, stage.pages)]]
    facts = [dict(list(random_facts(rng).items())[: stage.facts]) for _ in chosen]
    items = []
    for realm, fact in zip(chosen[: stage.pages], facts, strict=False):
        image = _draw(realm, portrait, rng) if stage.images else None
        items.append(KnowledgeItem(realm.id, realm.name, realm._replace(facts=fact).text, image))
    attributes = {a.key: a for a in ATTRIBUTES}
    chat: Chat = []
    for turn, key in enumerate(rng.permutation(list(facts[0]))[: stage.questions]):
        image = [{"type": "image", "url": _draw(chosen[0], snapshot, rng)}] if stage.images and turn == 0 else []
        question = [*image, {"type": "text", "text": attributes[key].question}]
        answer = [{"type": "text", "text": facts[0][key]}]
        chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return chat, items


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


def _draw(realm: Realm, view: Any, rng: RandomState) -> Image.Image:
    return Image.fromarray(draw(realm.emblem, view(rng)))
