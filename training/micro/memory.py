"""Trains the micro memory encoder: a micro VLM in, the adapter and resampler that compress a page into 8 vectors out.

    python -m comem_lmms.training.micro.memory OUT --vlm FOLDER [--seed 1]

It is `comem_lmms.training.train` on one kind of pages after the other, each going on from what was learnt before. Seeds
differ in how soon they find out how to do a thing, and what was not learnt on easy pages is not made up for on hard
ones, so a kind is trained on again, with new pages, until enough of what is held out is answered right, or as often as
it may be. Short pages are begun anew each time: a seed that finds out late, or by half, stays behind.

``OUT-rounds`` holds what each training made. An interrupted run goes on where it was.
"""

import argparse
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms.training.micro.common import in_one_line, run, write_log
from comem_lmms.training.micro.samples import STAGES
from comem_lmms.training.settings import DEFAULTS, FREE, load
from comem_lmms.training.synthesis.store import MANIFEST
from comem_lmms.training.train import RECORD

from comem_lmms.encoder import FILES, fingerprint
from comem_lmms.errors import UserError
from comem_lmms.files import read_json
from comem_lmms.fingerprints import checkpoint_fingerprint

log = logging.getLogger(__name__)


class Enough(NamedTuple):
    """How much of a kind of pages is to be learnt.

    Attributes:
        right: share of the held-out questions to answer right.
        most: rounds, at most.
        anew: whether a further round begins where the first one did, not where the one before ended.
    """

    right: float
    most: int
    anew: bool = False


ENOUGH = {"short": Enough(0.8, 5, anew=True), "longer": Enough(0.97, 4), "full": Enough(0.0, 1)}
HELD_OUT, ANSWERED = 512, 256  # samples
PLACES = ("pretrained", "data", "knowledge", "out", "start")  # settings


class Round(NamedTuple):
    """One training.

    Attributes:
        folder: of its samples and its encoder.
        stage: the kind of pages.
        steps: of training.
        vlm: to make memories for.
        start: the encoder to go on from; None for a fresh one.
        seed: of pages and of what else is random.
    """

    folder: Path
    stage: str
    steps: int
    vlm: str
    start: Path | None
    seed: int

    @property
    def encoder(self) -> Path:
        """The folder of what it makes."""
        return self.folder / "encoder"

    def train(self) -> dict[str, Any]:
        """Makes samples and trains on them, unless that is done; returns the training's record.

        Raises:
            UserError: what is there is of another seed, VLM, start, kind of pages or setting.
        """
        if not (self.encoder / RECORD).is_file():
            self._make_samples()
            run("comem_lmms.training.train", "--config", "micro", "--set", *self._settings())
        record = read_json(self.encoder / RECORD)
        self._check_samples(record["data_manifest"])
        self._check({**DEFAULTS, **record["settings"], **record}, self._asked())
        # The seed makes the samples again, and nothing goes on from the checkpoints.
        for left in (*self.folder.glob("data*"), self.folder / "knowledge", self.encoder / "checkpoints"):
            shutil.rmtree(left, ignore_errors=True)
        return record

    def _make_samples(self) -> None:
        if not (self.folder / "data").is_dir():
            given = ("--stage", self.stage, "--seed", str(self.seed), "--steps", str(self.steps))
            run("comem_lmms.training.micro.samples", str(self.folder), *given)
        self._check_samples(read_json(self.folder / "data" / MANIFEST))

    def _check_samples(self, manifest: dict[str, Any]) -> None:
        stage = STAGES[self.stage]._replace(steps=self.steps)
        asked = {**stage._asdict(), "memories": list(stage.memories), "seed": self.seed}
        self._check({**manifest["stage"], "seed": manifest["seed"]}, asked)

    def _asked(self) -> dict[str, Any]:
        """What the training's record is to have; where things lie does not matter."""
        settings = asdict(load("micro", self._settings()))
        asked = {name: value for name, value in settings.items() if name not in (*FREE, *PLACES)}
        asked["start_fingerprint"] = fingerprint(str(self.start)) if self.start else None
        return asked | {"vlm_fingerprint": checkpoint_fingerprint(self.vlm)}

    def _check(self, found: dict[str, Any], asked: dict[str, Any]) -> None:
        for name, value in asked.items():
            if found[name] != value:
                raise UserError(
                    f"{self.folder} was made with {name}={found[name]}, not {value}; remove {self.folder.parent}, or "
                    "name another folder"
                )

    def _settings(self) -> list[str]:
        """On the command line of the training."""
        samples = STAGES[self.stage].samples
        settings = {
            "pretrained": self.vlm,
            "data": self.folder / "data",
            "knowledge": self.folder / "knowledge",
            "out": self.encoder,
            "start": self.start or "null",
            "shuffle": "false",
            "global_batch": samples,
            "batch_size": samples,
            "eval_samples": HELD_OUT,
            "eval_answers": ANSWERED,
            "eval_every": 1000,
            "tracker": "none",
            "seed": self.seed,
        }
        return [f"{name}={value}" for name, value in settings.items()]


def train_rounds(out: Path, vlm: str, seed: int, steps: int | None) -> None:
    """Trains on each kind of pages until enough is learnt, and writes the encoder and its ``training.json``.

    Raises:
        UserError: there is no such VLM, or what is there is of another seed, VLM, kind of pages or setting.
    """
    checkpoint_fingerprint(vlm)
    rounds, curve = [], []
    last: Round | None = None
    for stage, enough in ENOUGH.items():
        before, tried = last and last.encoder, []
        for number in range(1, enough.most + 1):
            last = Round(
                out.absolute().with_name(f"{out.absolute().name}-rounds") / f"{stage}-{number}",
                stage,
                STAGES[stage].steps if steps is None else steps,
                vlm,
                before if enough.anew else last and last.encoder,
                seed + 1000 * (number - 1),  # new pages
            )
            record = last.train()
            right = record["exact_matches"][-1][1]
            tried.append((right, last))
            rounds.append({"round": last.folder.name, "steps": record["step"], "answers_right": round(right, 4)})
            curve += record["losses"]
            if right >= enough.right:
                break
        else:
            log.warning("%s pages: in the end %.1f %% are right, not %.0f", stage, 100 * right, 100 * enough.right)
            if enough.anew:
                _, last = max(tried, key=lambda one: one[0])
    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)  # of the files before these
    for name in FILES:
        shutil.copy(last.encoder / name, out)
    write_log(out, {"seed": seed}, curve, rounds=rounds)


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--vlm", required=True, help="the VLM to make memories for: a folder, or micro")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of each round, for a trial; default: the stage's")
    args = parser.parse_args()
    if args.steps is not None and args.steps < 2:
        parser.error("--steps must be 2 or more: one is held out")
    with in_one_line():
        train_rounds(args.out, args.vlm, args.seed, args.steps)


if __name__ == "__main__":
    main()
