"""Trains the micro memory encoder: a micro VLM in, the adapter and resampler that compress a page into 8 vectors out.

    python -m comem_lmms.training.micro.memory OUT --vlm FOLDER [--seed 1] [--steps 1200]

The loss is that of the frozen VLM answering questions with the memories of one to three items in front, the right one
next to the question. Only the adapter and the resampler learn. Needs about 45 minutes on one CPU core.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from comem_lmms.training.micro.chats import Stage, answer_mask, make_chat
from comem_lmms.training.micro.common import train, training_realms, write_log
from numpy.random import RandomState
from torch import Tensor
from torch.nn.functional import cross_entropy

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.resampler import ResamplerConfig
from comem_lmms.vlm import FrozenVLM, images_of

RESAMPLER = ResamplerConfig(
    dim=160, input_dim=160, n_vectors=8, depth=4, heads=5, dim_head=32, init_std=0.08, init_scale=0.08
)
N_REALMS = 256

# Few facts first: how to put one into a vector is found there, and not at all on full pages.
SHORT = Stage(pages=1, facts=4, questions=4, images=False, batch=48)
LONGER = Stage(pages=1, facts=8, questions=8, images=True, batch=32)
FULL = {k: Stage(pages=k, facts=12, questions=8, images=True, batch=36 // k) for k in (1, 2, 3)}


def answer_loss(encoder: MemoryEncoder, rng: RandomState, realms: list, stage: Stage) -> Tensor:
    """Mean cross-entropy of the answers of a batch of chats with memories in front; a scalar."""
    vlm = encoder.vlm
    made = [make_chat(rng, realms, stage) for _ in range(stage.batch)]
    memories = encoder.forward([item for _, items in made for item in reversed(items)])  # (batch * pages, 8, D)
    prefixes = list(memories.unflatten(0, (stage.batch, stage.pages)).flatten(1, 2))  # batch x (8 * pages, D)
    chats = [chat for chat, _ in made]
    texts = vlm.processor.apply_chat_template(chats, tokenize=False)
    inputs = vlm.tokenize(texts, [part["url"] for chat in chats for part in images_of(chat)])
    with vlm.prefixed(inputs, prefixes) as inputs:
        hidden = vlm.hidden_states(inputs)  # (B, 8 * pages + L, D)
    is_answer = answer_mask(inputs["input_ids"], vlm.processor)
    logits = vlm.model.lm_head(hidden[:, :-1][is_answer[:, 1:]])
    return cross_entropy(logits, inputs["input_ids"][is_answer])


def growing_losses(encoder: MemoryEncoder, seed: int, steps: int) -> Iterator[Tensor]:
    """One loss a step: short pages in the first 20 %, longer ones to 40 %, then one to three full pages."""
    rng = RandomState(seed)
    realms = training_realms(seed, N_REALMS)
    for step in range(steps):
        stage = FULL[int(rng.choice([1, 2, 3], p=[0.5, 0.2, 0.3]))]
        if step < 0.4 * steps:
            stage = SHORT if step < 0.2 * steps else LONGER
        yield answer_loss(encoder, rng, realms, stage)


def full_losses(encoder: MemoryEncoder, seed: int) -> Iterator[Tensor]:
    """One loss a step, for ever: one to three full pages, three in half of the steps."""
    rng = RandomState(seed + 1)
    realms = training_realms(seed, N_REALMS)
    while True:
        yield answer_loss(encoder, rng, realms, FULL[int(rng.choice([1, 2, 3], p=[0.2, 0.3, 0.5]))])


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--vlm", required=True, help="the VLM to make memories for: a folder, or micro")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    encoder = MemoryEncoder.create(FrozenVLM.load(args.vlm, device="cpu"), RESAMPLER, dropout=0.0)
    curve = train(encoder.parameters(), growing_losses(encoder, args.seed, args.steps), args.steps, args.lr)
    curve += train(encoder.parameters(), full_losses(encoder, args.seed), args.steps // 2, args.lr / 2)
    encoder.save(args.out)
    write_log(args.out, {"seed": args.seed, "steps": args.steps, "lr": args.lr}, curve)


if __name__ == "__main__":
    main()
