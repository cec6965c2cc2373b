"""Trains the micro memory encoder: a micro VLM in, the adapter and resampler that compress a page into 8 vectors out.

    python -m comem_lmms.training.micro.memory OUT --vlm FOLDER [--seed 1]

It is `comem_lmms.training.train` on one kind of pages after the other, each going on from what was learnt before. Seeds
differ in how soon they find out how to do a thing, and what was not learnt on easy pages is not made up for on hard
ones, so a kind is trained on again, with new pages, until enough of what is held out is answered right.

An interrupted run goes on where it was.
"""

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

from comem_lmms.training.micro.common import run, write_log
from comem_lmms.training.micro.samples import STAGES

from comem_lmms.encoder import FILES
from comem_lmms.files import read_json

# Of each kind of pages: the share of held-out questions to answer right, and how often it is trained on at most.
ENOUGH = {"short": (0.8, 3), "longer": (0.97, 4), "full": (0.0, 1)}
HELD_OUT, ANSWERED = 256, 128  # samples
RECORD = "training.json"


def train_round(out: Path, name: str, vlm: str, start: str | None, seed: int, steps: int | None) -> dict[str, Any]:
    """Makes samples and trains on them, unless that is done; returns the training's record."""
    kind, folder = name.partition("-")[0], out / name
    encoder, knowledge, data = (folder / part for part in ("encoder", "knowledge", "data"))
    if not (encoder / RECORD).is_file():
        if not data.is_dir():
            given = ["--stage", kind, "--seed", str(seed), *(["--steps", str(steps)] if steps else [])]
            run("comem_lmms.training.micro.samples", str(folder), *given)
        settings = {
            "pretrained": vlm,
            "data": data,
            "knowledge": knowledge,
            "out": encoder,
            "start": start or "null",
            "shuffle": "false",
            "global_batch": STAGES[kind].samples,
            "batch_size": STAGES[kind].samples,
            "eval_samples": HELD_OUT,
            "eval_answers": ANSWERED,
            "eval_every": 1000,
            "tracker": "none",
            "seed": seed,
        }
        run("comem_lmms.training.train", "--config", "micro", "--set", *(f"{k}={v}" for k, v in settings.items()))
    for made in (knowledge, data):  # the seed makes them again
        shutil.rmtree(made, ignore_errors=True)
    return read_json(encoder / RECORD)


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--vlm", required=True, help="the VLM to make memories for: a folder, or micro")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of each round, for a trial; default: the stage's")
    args = parser.parse_args()
    rounds, curve, start = [], [], None
    for stage, (enough, most) in ENOUGH.items():
        for number in range(1, most + 1):
            name = f"{stage}-{number}"
            seed = args.seed + 1000 * (number - 1)  # new pages
            record = train_round(args.out / "rounds", name, args.vlm, start, seed, args.steps)
            start = str(args.out / "rounds" / name / "encoder")
            right = record["exact_matches"][-1][1]
            rounds.append({"data": name, "steps": record["step"], "answers_right": round(right, 4)})
            curve += record["losses"]
            if right >= enough:
                break
    for name in FILES:
        shutil.copy(Path(start) / name, args.out)
    write_log(args.out, {"seed": args.seed, "rounds": rounds}, curve)


if __name__ == "__main__":
    main()
