"""Trains the micro memory encoder: a micro VLM in, the adapter and resampler that compress a page into 8 vectors out.

    python -m comem_lmms.training.micro.memory OUT --vlm FOLDER [--seed 1] [--steps 2600]

The loss is that of the frozen VLM answering questions with the memories of one to four items in front, the right one
next to the question. Only the adapter and the resampler learn.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from comem_lmms.training.micro.chats import Stage, answer_mask, apart, make_chat
from comem_lmms.training.micro.common import train, training_realms, waiting, write_log
from numpy.random import RandomState
from torch import Tensor
from torch.nn.functional import cross_entropy

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.images import images_of
from comem_lmms.microseek.world import Realm
from comem_lmms.resampler import ResamplerConfig
from comem_lmms.vlm import FrozenVLM

RESAMPLER = ResamplerConfig(
    dim=160, input_dim=160, n_vectors=8, depth=4, heads=5, dim_head=32, init_std=0.08, init_scale=0.08
)
N_REALMS = 256

# Few facts first: how to put one into a vector is found there, and not at all on full pages.
SHORT = Stage(pages=1, facts=4, questions=4, images=False, batch=48)
LONGER = Stage(pages=1, facts=8, questions=8, images=True, batch=32)
FULL = Stage(pages=1, facts=12, questions=4, images=True, batch=24)
READ, READ_WELL = 0.15, 0.05  # losses at which memories of short and of longer pages count as read
HELD_OUT = 10  # batches to measure on


def predict(
    encoder: MemoryEncoder, rng: RandomState, realms: list[Realm], stage: Stage, k: int
) -> tuple[Tensor, Tensor]:
    """What the frozen VLM makes of a batch of chats behind k memories each, the right one next to the question.

    With pictures each question is a chat of its own, as in MicroSeek. The other k - 1 memories are those of other
    pages of the batch, so each page is encoded once and read many times.

    Returns:
        Logits (n, vocabulary) of the n answer tokens, and their ids (n,).
    """
    vlm = encoder.vlm
    made = [make_chat(rng, realms, stage) for _ in range(stage.batch)]
    memories = encoder.forward([item for _, items in made for item in items])  # (batch, 8, D)
    chats, prefixes = [], []
    for i, (chat, _) in enumerate(made):
        for part in apart(chat) if stage.images else [chat]:
            chats.append(part)
            prefixes.append(memories[[*_others(rng, i, stage.batch, k - 1), i]].flatten(0, 1))
    texts = vlm.processor.apply_chat_template(chats, tokenize=False)
    inputs = vlm.tokenize(texts, [part["url"] for chat in chats for part in images_of(chat)])
    return vlm.predict(inputs, answer_mask(inputs["input_ids"], vlm.processor), prefixes)


def _others(rng: RandomState, i: int, batch: int, n: int) -> list[int]:
    return [int(j) for j in rng.permutation(batch)[: n + 1] if j != i][:n]


def losses(encoder: MemoryEncoder, seed: int, steps: int) -> Iterator[tuple[int, Tensor]]:
    """Positions and losses: short pages in the first tenth, longer in the second, then full ones, 1 to 4 memories."""
    rng = RandomState(seed)
    realms = training_realms(seed, N_REALMS)

    def loss_at(step: int) -> Tensor:
        stage, k = FULL, int(rng.choice([1, 2, 3, 4], p=[0.15, 0.25, 0.45, 0.15]))
        if step < 0.2 * steps:
            stage, k = SHORT if step < 0.1 * steps else LONGER, 1
        return cross_entropy(*predict(encoder, rng, realms, stage, k))

    return waiting(loss_at, steps, {int(0.1 * steps) - 1: READ, int(0.2 * steps) - 1: READ_WELL})


@torch.inference_mode()
def held_out(encoder: MemoryEncoder, seed: int, batches: int) -> dict[str, float]:
    """Answers foretold right, in percent, with one to three memories, on realms that training did not show."""
    realms = training_realms(seed + 1000, N_REALMS)
    end = encoder.vlm.processor.tokenizer.eos_token_id
    measured = {}
    for k in (1, 2, 3):
        rng = RandomState(seed + 1000)
        right: list[bool] = []
        for _ in range(batches):
            logits, ids = predict(encoder, rng, realms, FULL, k)
            lengths = (ids == end).nonzero().flatten().diff(prepend=torch.tensor([-1])).tolist()
            right += [bool(answer.all()) for answer in (logits.argmax(-1) == ids).split(lengths)]
        measured[f"answers_right_k{k}"] = 100 * sum(right) / len(right)
    return measured


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--vlm", required=True, help="the VLM to make memories for: a folder, or micro")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    encoder = MemoryEncoder.create(FrozenVLM.load(args.vlm, device="cpu"), RESAMPLER, dropout=0.0)
    curve = train(encoder.parameters(), losses(encoder, args.seed, args.steps), args.steps, args.lr)
    encoder.save(args.out)
    settings = {"seed": args.seed, "steps": args.steps, "lr": args.lr}
    write_log(args.out, settings, curve, **held_out(encoder, args.seed, HELD_OUT))


if __name__ == "__main__":
    main()
