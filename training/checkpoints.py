"""Where an interrupted training goes on: its state in, a folder that appears whole or not at all out.

accelerate saves optimizer, scheduler and random numbers; of the models only what learns is saved, as a memory encoder,
so a checkpoint can be used as one.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import read_json, sync, write_json

PROGRESS = "progress.json"
PARTIAL = ".partial"


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: that have been taken.
        losses: of every step, the mean over its samples.
        norms: of the gradient of every step, before it was clipped.
        evaluations: pairs of a step and the mean loss on what is held out.
        exact_matches: pairs of a step and the share of right answers to what is held out.
        tokens: that models have read, without padding.
        left_out: why samples were left out, by name.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    exact_matches: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of a training.

    Args:
        folder: of theirs, made if need be.
        accelerator: that has prepared all that learns.
        keep: the latest so many.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, encoder: MemoryEncoder, keep: int) -> None:
        self.folder, self.accelerator, self.encoder, self.keep = folder, accelerator, encoder, keep
        accelerator.register_save_state_pre_hook(self._save_encoder)
        accelerator.register_load_state_pre_hook(self._load_encoder)

    def latest(self) -> Path | None:
        """The last one that was finished."""
        return max(self._all(), key=_step, default=None)

    def save(self, progress: Progress) -> None:
        """Saves the state; all processes take part.

        Raises:
            UserError: the disk refuses. The checkpoints that are there stay.
        """
        folder = self.folder / f"step-{progress.step:07}"
        partial = folder.with_name(folder.name + PARTIAL)
        main = self.accelerator.is_main_process
        with self._writing(partial):
            if main:
                self._remove_leftovers()
                partial.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(partial))
            self.accelerator.wait_for_everyone()
            if main:
                write_json(partial / PROGRESS, {**asdict(progress), "random": _random_state()})
                for path in (*partial.iterdir(), partial):
                    sync(path)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(partial, folder)
                sync(self.folder)
                self._prune()
        self.accelerator.wait_for_everyone()

    def restore(self, folder: Path) -> Progress:
        """Goes back to a checkpoint; all processes take part.

        Raises:
            UserError: it is damaged.
        """
        progress = read_json(folder / PROGRESS)
        try:
            random = progress.pop("random")
            self.accelerator.load_state(str(folder))
            restored = Progress(**progress)
        except Exception as error:  # torch, safetensors and peft each raise their own for a damaged file
            raise UserError(
                f"checkpoint {folder} is damaged ({one_line(error)}); remove it, and what is left is gone on from"
            ) from error
        # accelerate goes on without random numbers that it cannot read.
        if self.accelerator.is_main_process and random != _random_state():
            raise UserError(f"checkpoint {folder} is damaged (its random numbers cannot be read); remove it")
        return restored

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*") if path.suffix != PARTIAL and (path / PROGRESS).is_file()]

    def _prune(self) -> None:
        for old in sorted(self._all(), key=_step)[: -self.keep]:
            dying = old.with_name(old.name + PARTIAL)  # half a checkpoint must not look like one
            os.replace(old, dying)
            shutil.rmtree(dying)

    def _remove_leftovers(self) -> None:
        for leftover in self.folder.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(leftover)

    def _save_encoder(self, models: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()  # those of the whole VLM
        if self.accelerator.is_main_process:
            self.encoder.save(folder)

    def _load_encoder(self, models: list[Any], folder: str) -> None:
        models.clear()
        self.encoder.restore(Path(folder))

    @contextmanager
    def _writing(self, partial: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own
            shutil.rmtree(partial, ignore_errors=True)
            last = self.latest()
            kept = f"{last} is kept, and the same command goes on from there" if last else "there is no earlier one"
            raise UserError(
                f"cannot write the checkpoint {partial.name.removesuffix(PARTIAL)} ({one_line(error)}); make room on "
                f"the disk: {kept}"
            ) from error


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _random_state() -> str:
    return hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
