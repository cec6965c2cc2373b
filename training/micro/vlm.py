"""Trains the micro VLM to read: random pages in, a Qwen2.5-VL that answers from its context out.

    python -m comem_lmms.training.micro.vlm OUT [--seed 1] [--steps 1200]

Every sequence is a chat: pages (best last, next to the question, as at test time), then questions on the best one.
Facts are drawn anew for every sequence, so nothing can be learnt by heart; a few sequences have no page, so that the
model answers in kind when it has nothing to go by. First it learns to read, in ``--steps`` steps or, where short pages
take it longer, a few more, then to choose, in three eighths as many, and at last to choose with a picture in between,
in as many again.
"""

import argparse
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from comem_lmms.training.micro.chats import Chat, Stage, answer_mask, make_chat
from comem_lmms.training.micro.common import train, training_realms, waiting, write_log
from comem_lmms.training.micro.tokenizer import make_processor, spaced_pairs
from numpy.random import RandomState
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from comem_lmms.images import images_of
from comem_lmms.microseek.world import Realm
from comem_lmms.prompts import rag_messages

Model = Qwen2_5_VLForConditionalGeneration

TEXT_WEIGHT = 0.5  # of the loss on every word; a page repeats its realm's name, which teaches to copy
READ = 0.17  # loss at which pages count as read; most of what is left are words that none can foretell
N_REALMS = 256  # emblems seen in training; pages are made up afresh for every sequence


# Short pages without images first: copying is found in minutes there, and not at all on full pages.
SHORT = Stage(pages=1, facts=4, questions=4, images=False, batch=64)
LONGER = Stage(pages=1, facts=8, questions=6, images=True, batch=32)
FULL = {
    0: Stage(pages=0, facts=12, questions=8, images=True, batch=48),
    1: Stage(pages=1, facts=12, questions=8, images=True, batch=32),
    2: Stage(pages=2, facts=12, questions=8, images=True, batch=22),
    3: Stage(pages=3, facts=12, questions=8, images=True, batch=16),
}


def make_model(processor: Qwen2_5_VLProcessor, seed: int) -> Model:
    """A fresh micro VLM in which a word with and without its leading space start out as the same vector."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    ids = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    text = {
        "vocab_size": -(-len(tokenizer) // 16) * 16,
        "hidden_size": 160,
        "intermediate_size": 400,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 160,
        "fullatt_block_indexes": [1],
        "window_size": 112,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    # Copying "badger" from " badger" then needs no dictionary.
    spaced, bare = zip(*spaced_pairs(tokenizer), strict=True)
    with torch.no_grad():
        model.get_input_embeddings().weight[list(bare)] = model.get_input_embeddings().weight[list(spaced)]
    return model


def chat_loss(model: Model, processor: Qwen2_5_VLProcessor, chats: list[Chat]) -> Tensor:
    """Mean cross-entropy of the answers plus TEXT_WEIGHT times that of every word; a scalar."""
    texts = processor.apply_chat_template(chats, tokenize=False)
    images = [part["url"] for chat in chats for part in images_of(chat)] or None
    inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
    hidden = model.model(**inputs).last_hidden_state  # (B, L, D)
    is_answer = answer_mask(inputs.input_ids, processor)
    is_text = inputs.attention_mask.bool() & (inputs.mm_token_type_ids == 0)
    is_text[:, 0] = False
    logits = model.lm_head(hidden[:, :-1][is_text[:, 1:]])
    loss = cross_entropy(logits, inputs.input_ids[is_text], reduction="none")
    return loss[is_answer[is_text]].mean() + TEXT_WEIGHT * loss.mean()


def reading_losses(model: Model, processor: Qwen2_5_VLProcessor, seed: int, steps: int) -> Iterator[tuple[int, Tensor]]:
    """Positions and losses: short pages in the first 40 %, longer ones to 50 %, then none to three full pages."""
    rng = RandomState(seed)
    realms = training_realms(seed, N_REALMS)

    def loss_at(step: int) -> Tensor:
        stage = FULL[int(rng.choice(4, p=[0.04, 0.36, 0.2, 0.4]))]
        if step < 0.5 * steps:
            stage = SHORT if step < 0.4 * steps else LONGER
        return _loss(model, processor, rng, realms, stage)

    return waiting(loss_at, steps, dict.fromkeys((int(0.4 * steps) - 1, int(0.5 * steps) - 1), READ))


def choosing_losses(model: Model, processor: Qwen2_5_VLProcessor, seed: int, phase: int) -> Iterator[Tensor]:
    """One loss a step, for ever: full pages, short pages and notes, the right one next to the question.

    Full pages alone teach to choose between pages that lie a page apart; memories lie 8 positions apart, and so do
    the notes of several pages in one turn. In phase 2 the question's picture mostly stands between them and the
    question, as it does behind memories; a model that has only seen notes right before a question loses its way there.
    """
    small, kinds = CHOOSING[phase]
    rng = RandomState(seed + phase)
    realms = training_realms(seed, N_REALMS)
    while True:
        kind = rng.choice(["full", "short", "notes"], p=kinds)
        full = kind == "full"
        stage = FULL[int(rng.choice(4, p=[0.1, 0.2, 0.2, 0.5]))] if full else small(rng, kind == "notes")
        yield _loss(model, processor, rng, realms, stage)


def _small_stage(rng: RandomState, notes: bool) -> Stage:
    """One to five short pages or notes, pictures on few of the pages."""
    pages, facts = int(rng.randint(1, 6)), int(rng.choice([3, 4, 6, 8, 12] if notes else [1, 2, 3, 5, 8]))
    images = not notes and bool(rng.rand() < 0.4)
    return _sized(Stage(pages, facts, min(facts, 8), images, batch=64, notes=notes))


def _pictured_stage(rng: RandomState, notes: bool) -> Stage:
    """One to five short pages or notes, most with pictures; half of the chats ask a single question, as MicroSeek."""
    pages, facts = int(rng.randint(1, 6)), int(rng.choice([1, 2, 3, 4, 6, 8, 12]))
    questions = 1 if rng.rand() < 0.5 else min(facts, 8)
    return _sized(Stage(pages, facts, questions, images=bool(rng.rand() < 0.7), batch=64, notes=notes))


def _sized(stage: Stage) -> Stage:
    """With no more chats than come to some 6,000 tokens."""
    page = 3 * stage.facts if stage.notes else 9 * stage.facts + 18 * stage.images + 10
    tokens = stage.pages * page + 15 * stage.questions + 40
    return stage._replace(batch=min(stage.batch, 6000 // tokens))


# By phase: how small stages are drawn, and the shares of full pages, short pages and notes.
CHOOSING = {1: (_small_stage, [0.25, 0.3, 0.45]), 2: (_pictured_stage, [0.2, 0.2, 0.6])}


def _loss(model: Model, processor: Qwen2_5_VLProcessor, rng: RandomState, realms: list[Realm], stage: Stage) -> Tensor:
    made = [make_chat(rng, realms, stage) for _ in range(stage.batch)]
    return chat_loss(model, processor, [rag_messages(chat, items) for chat, items in made])


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    processor = make_processor()
    model = make_model(processor, args.seed)
    weights = list(model.parameters())
    curve = train(weights, reading_losses(model, processor, args.seed, args.steps), args.steps, args.lr)
    steps = 3 * args.steps // 8
    for phase in CHOOSING:
        losses = islice(choosing_losses(model, processor, args.seed, phase), steps)
        curve += train(weights, enumerate(losses), steps, args.lr / 2)
    model.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    write_log(args.out, {"seed": args.seed, "steps": args.steps, "lr": args.lr}, curve)


if __name__ == "__main__":
    main()
