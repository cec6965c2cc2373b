"""Trains the micro CLIP to know an emblem again: pairs of views in, an open_clip model out.

    python -m comem_lmms.training.micro.clip OUT [--seed 1] [--steps 2500]

A pair is an emblem as a knowledge base shows it and as a question shows it; the others of the batch are the negatives
(the symmetric InfoNCE loss of open_clip). Retrieval is image to image, so the text tower is open_clip's in its
smallest form and stays as it was initialised.
"""

import argparse
import json
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import open_clip
import torch
from comem_lmms.training.micro.common import train, training_realms, write_log
from numpy.random import RandomState
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from comem_lmms.microseek import world
from comem_lmms.microseek.emblem import draw, portrait, random_emblem, snapshot

CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 12, "head_width": 48},  # a small ResNet of CLIP's
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
BATCH = 128
N_EMBLEMS = 6000
SNAPSHOTS = 4  # views of an emblem as a question shows it


def draw_views(seed: int, n: int) -> np.ndarray:
    """``n`` emblems, none of the shipped world: a portrait and SNAPSHOTS snapshots each; (n, 5, 64, 64, 3) uint8."""
    rng = RandomState(seed)
    held_out = {realm.emblem for realm in world.make_realms(world.SEED, world.N_REALMS)}
    size = CONFIG["vision_cfg"]["image_size"]
    views = np.empty((n, 1 + SNAPSHOTS, size, size, 3), np.uint8)
    for i in range(n):
        while (emblem := random_emblem(rng)) in held_out:
            pass
        views[i] = [resize(draw(emblem, view(rng))) for view in (portrait, *[snapshot] * SNAPSHOTS)]
    return views


def losses(model: torch.nn.Module, views: np.ndarray, seed: int) -> Iterator[Tensor]:
    """The symmetric contrastive loss of a batch of (portrait, snapshot) pairs, for ever."""
    rng = RandomState(seed)
    while True:
        rows = rng.permutation(len(views))[:BATCH]
        pair = [views[rows, 0], views[rows, rng.randint(1, 1 + SNAPSHOTS, BATCH)]]
        keys, queries = (model.encode_image(normalise(images), normalize=True) for images in pair)
        scores = model.logit_scale.exp().clamp(max=100) * keys @ queries.T  # (BATCH, BATCH)
        target = torch.arange(BATCH)
        yield (cross_entropy(scores, target) + cross_entropy(scores.T, target)) / 2


def resize(image: np.ndarray) -> np.ndarray:
    """(56, 56, 3) to (64, 64, 3) uint8, as the shipped preprocessing does."""
    size = CONFIG["vision_cfg"]["image_size"]
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def normalise(images: np.ndarray) -> Tensor:
    """(n, 64, 64, 3) uint8 to (n, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def recall_at_1(model: torch.nn.Module, seed: int) -> float:
    """Recall@1 in percent on a world of another seed: 1,024 portraits, 384 snapshots."""
    rng = RandomState(seed + 1000)
    realms = training_realms(seed + 1000, 1024)
    keys = normalise(np.stack([resize(draw(realm.emblem, realm.portrait)) for realm in realms]))
    queries = normalise(np.stack([resize(draw(realm.emblem, snapshot(rng))) for realm in realms[:384]]))
    keys, queries = (model.encode_image(images, normalize=True) for images in (keys, queries))
    return 100 * (queries @ keys.T).argmax(1).eq(torch.arange(384)).float().mean().item()


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = open_clip.CLIP(**CONFIG)
    views = draw_views(args.seed, N_EMBLEMS)
    trained = [*model.visual.parameters(), model.logit_scale]
    curve = train(trained, enumerate(islice(losses(model, views, args.seed), args.steps)), args.steps, args.lr)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, args.out / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}
    (args.out / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    settings = {"seed": args.seed, "steps": args.steps, "lr": args.lr}
    write_log(args.out, settings, curve, recall_at_1=recall_at_1(model.eval(), args.seed))


if __name__ == "__main__":
    main()
