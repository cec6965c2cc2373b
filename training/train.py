"""Trains a memory encoder: settings in, a folder that ``memory_encoder=`` takes out.

    accelerate launch -m comem_lmms.training.train --config qwen2_5_vl_7b --set data=DATA knowledge=KNOWLEDGE out=OUT

The same command goes on where an interrupted training was. docs/training.md.
"""

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object, set_seed
from comem_lmms.training import text
from comem_lmms.training.batches import NO_QUESTION, Batch, Collator, ahead, in_order, share, spread, steps
from comem_lmms.training.checkpoints import Checkpoints, Progress
from comem_lmms.training.data import TrainingData
from comem_lmms.training.learning import (
    Compressor,
    Learner,
    checkpoint_activations,
    leave_casting_to_autocast,
    parameter_groups,
)
from comem_lmms.training.settings import DEFAULTS, FREE, Settings, load
from comem_lmms.training.shards import shard, take_over
from comem_lmms.training.start import check_start, go_on_from
from comem_lmms.training.watch import Watch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import get_cosine_schedule_with_warmup

from comem_lmms import micro
from comem_lmms.backbones import backbone
from comem_lmms.encoder import MemoryEncoder
from comem_lmms.encoder import fingerprint as encoder_fingerprint
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import LOCK, alone, on_disk, read_json, sync, write_json
from comem_lmms.fingerprints import checkpoint_fingerprint
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.reference.reading import ReferenceEncoder
from comem_lmms.scoring.exact import exact_match
from comem_lmms.scoring.extraction import extract
from comem_lmms.vlm import FrozenVLM, hidden_size, read_config

log = logging.getLogger("comem_lmms.training")  # also where this module is run as __main__

RUN = "run.json"  # what an interrupted training was
RECORD = "training.json"  # what a finished one was


def train(settings: Settings) -> Path:
    """Trains, or goes on, and writes the memory encoder with a ``training.json`` beside it; returns their folder.

    Raises:
        UserError: settings, data and what is in ``out`` do not fit together, or the loss is no number any more.
    """
    return Training(settings).run()


def open_data(settings: Settings) -> TrainingData:
    """What a training learns from.

    Raises:
        UserError: there is no such data or knowledge base, or they do not belong together.
    """
    knowledge = KnowledgeBase.open(micro.resolve(settings.knowledge, "knowledge"))
    return TrainingData.open(settings.data, knowledge, settings.top_k)


def fingerprints_of(settings: Settings, data: TrainingData) -> dict[str, str | None]:
    """Of what a training is made of, by the names that a record has for them."""
    return {
        "data_fingerprint": data.fingerprint,
        "knowledge_fingerprint": data.knowledge.fingerprint,
        "vlm_fingerprint": checkpoint_fingerprint(settings.pretrained, settings.revision),
        "reader_fingerprint": checkpoint_fingerprint(settings.reader) if settings.reader else None,
        "start_fingerprint": encoder_fingerprint(settings.start) if settings.start else None,
    }


class Training:
    """A training, ready to run."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.out = settings, Path(settings.out)
        sharding = take_over()
        if (self.out / RECORD).is_file():
            raise UserError(
                f"{self.out} holds a memory encoder that is trained; give another out=, with start={self.out} to go on "
                "from it"
            )
        # What takes no weights is found out before they are loaded.
        config = read_config(settings.pretrained, settings.revision)
        backbone(config.model_type)
        settings.resampler(hidden_size(config))
        _tracker(settings.tracker)
        if settings.start:
            check_start(settings)
        process = PartialState(cpu=not torch.cuda.is_available())
        passes = settings.passes(process.num_processes)
        self.data = open_data(settings)
        train_on, self.held_out = self.data.split(settings.eval_samples, settings.seed)
        self.numbers = self.data.share(train_on, settings.data_fraction, settings.seed)
        self.about = self._about(process.num_processes)
        self._check_run()
        sharding = sharding if process.num_processes > 1 else None
        self.vlm = self._load_vlm("cpu" if sharding else str(process.device))
        self.accelerator = self._accelerator(passes)
        self.encoder = self._fresh_encoder()
        reader = text.load(settings.reader, self.encoder, settings.attn_implementation) if settings.reader else self.vlm
        if sharding:
            shard([self.vlm, reader] if settings.reader else [self.vlm], process.device, sharding)
            self.encoder.resampler.to(process.device)
        if self.accelerator.mixed_precision == "bf16":
            leave_casting_to_autocast(self.encoder)
        if settings.activation_checkpointing:
            checkpoint_activations(self.vlm, reader)
        self.planned = self._plan()
        groups = parameter_groups(self.encoder, settings.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        warmup = math.ceil(settings.warmup * len(self.planned))
        schedule = get_cosine_schedule_with_warmup(optimizer, warmup, len(self.planned))
        prepared = self.accelerator.prepare(Compressor(self.encoder), optimizer, schedule)
        compressor, self.optimizer, self.schedule = prepared
        learner = text.TextLearner if settings.reader else Learner
        self.learner = learner(self.accelerator, compressor, self.encoder, reader)
        self.collate = Collator(self.data, self.encoder, reader)
        self.checkpoints = Checkpoints(self.out / "checkpoints", self.accelerator, self.encoder, settings.keep)

    def run(self) -> Path:
        """Takes the steps that are left and writes the encoder.

        Raises:
            UserError: another training is at work in ``out``, the disk is full, or the loss is no number any more.
        """
        if not self.accelerator.is_main_process:
            return self._run()
        with on_disk(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        with alone(self.out):
            with on_disk(self.out):
                write_json(self.out / RUN, self.about)
            return self._run()

    def _run(self) -> Path:
        latest = self.checkpoints.latest()
        self.progress = self.checkpoints.restore(latest) if latest else Progress()
        self._start_tracker()
        log.info(
            "%s samples to train on, %s held out; %s steps of %s, %s done",
            len(self.numbers),
            len(self.held_out),
            len(self.planned),
            self.settings.global_batch,
            self.progress.step,
        )
        start, began = self.progress.step, time.perf_counter()
        watch, tokens = Watch(), self.progress.tokens
        with logging_redirect_tqdm(), self._bar(start) as bar:
            for batches in ahead(self._batches, self.planned[start:]):
                self._step(batches, watch)
                bar.update()
                rate = (self.progress.tokens - tokens) / (time.perf_counter() - began)
                bar.set_postfix_str(f"loss {self.progress.losses[-1]:.3f}, {rate:,.0f} tokens/s")
                self._after(watch, rate)
        self._finish(began, start)
        return self.out

    def _step(self, batches: list[Batch], watch: Watch) -> None:
        """Takes a step."""
        self._note_left_out(batches)
        samples = int(self._sum(sum(len(batch.places) for batch in batches)))
        if not samples:
            raise UserError(f"no sample of step {self.progress.step + 1} can be used; see the warnings, mend the data")
        learnt = [self.learner.accumulate(batch, samples) for batch in batches]
        loss = self._sum(sum(float(part.losses.sum()) for part in learnt)) / samples
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(self.accelerator.clip_grad_norm_(parameters, self.settings.clip))
        self.progress.tokens += int(self._sum(sum(batch.tokens for batch in batches)))
        watch.look(self.progress.step + 1, loss, norm, learnt[0].memories)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.losses.append(loss)
        self.progress.norms.append(norm)

    def _after(self, watch: Watch, rate: float) -> None:
        """Measures, logs and saves where it is time to."""
        step, last = self.progress.step, self.progress.step == len(self.planned)
        logged: dict[str, float] = {}
        if self.held_out and (step % self.settings.eval_every == 0 or last):
            logged["eval_loss"] = self._evaluate()
            self.progress.evaluations.append((step, logged["eval_loss"]))
            log.info("step %s: held-out loss %.4f", step, logged["eval_loss"])
            if answered := spread(self.held_out, self.settings.eval_answers):
                logged["eval_exact_match"] = self._exact_match(answered)
                self.progress.exact_matches.append((step, logged["eval_exact_match"]))
                log.info("step %s: held-out exact match %.1f %%", step, 100 * logged["eval_exact_match"])
        if step % self.settings.log_every == 0 or last:
            recent = self.progress.losses[-self.settings.log_every :]
            logged |= {"loss": sum(recent) / len(recent), "lr": self.schedule.get_last_lr()[0]}
            logged |= {"gradient_norm": self.progress.norms[-1], "memory_norm": watch.norm, "tokens_per_second": rate}
            logged |= {} if watch.cosine is None else {"memory_cosine": watch.cosine}
        if logged:
            self.accelerator.log(logged, step=step)
        if step % self.settings.save_every == 0 or last:
            for left_out in gather_object([self.progress.left_out]):
                self.progress.left_out |= left_out
            self.checkpoints.save(self.progress)

    def _evaluate(self) -> float:
        """The mean loss on what is held out; each process measures a part."""
        size = self.settings.batch_size
        shares = [self.held_out[start : start + size] for start in range(0, len(self.held_out), size)]
        total = samples = 0.0
        for batch in map(self.collate, self._turns(shares)):
            losses = self.learner.measure(batch)
            total, samples = total + float(losses.sum()), samples + len(losses)
            self._note_left_out([batch])
        return self._sum(total) / max(1.0, self._sum(samples))

    def _exact_match(self, numbers: Sequence[int]) -> float:
        """The share of samples whose final answer is the right one's; each process answers a part.

        One at a time, so that no padding can turn a word: it is the same for any batch size.
        """
        right = answered = 0.0
        for share_ in self._turns([[number] for number in numbers]):
            batch = self.collate(share_)
            samples = [self.data[number] for number in share_ if batch.places]  # or left out, as its loss was
            said = self.learner.answer(batch, samples[0].chat if samples else NO_QUESTION, self.settings.eval_tokens)
            right += sum(exact_match(extract(said).text, extract(sample.answer).text) for sample in samples)
            answered += len(samples)
        return self._sum(right) / max(1.0, self._sum(answered))

    def _turns(self, shares: Sequence[list[int]]) -> list[list[int]]:
        """What this process takes of shares of samples, one after another; as many turns in each process."""
        processes = self.accelerator.num_processes
        padded = [*shares, *[[]] * (-len(shares) % processes)]
        return padded[self._process :: processes]

    def _finish(self, began: float, start: int) -> None:
        """Writes the encoder and what it was made of and by."""
        self.accelerator.end_training()
        if self.progress.left_out or self.data.lost:
            log.warning(
                "%s samples were left out (%s); %s names them",
                len(self.progress.left_out) + len(self.data.lost),
                next(iter((self.progress.left_out | self.data.lost).items())),
                self.out / RECORD,
            )
        if not self.accelerator.is_main_process:
            return
        self.encoder.save(self.out)
        for path in filter(Path.is_file, self.out.iterdir()):  # on the disk before the record says that they are whole
            sync(path)
        versions = {name: version(name) for name in ("comem-lmms", "torch", "transformers", "peft", "accelerate")}
        took = {"minutes": round((time.perf_counter() - began) / 60, 1), "steps": self.progress.step - start}
        record = {**self.about, "data_manifest": self.data.manifest, "versions": versions, "last_session": took}
        left_out = {"left_out": self.data.lost | self.progress.left_out}
        log.info("%s is a memory encoder; lmms-eval takes it as memory_encoder=%s", self.out, self.out)
        write_json(self.out / RECORD, {**record, "samples": len(self.numbers), **asdict(self.progress), **left_out})

    def _batches(self, numbers: list[int]) -> list[Batch]:
        """What this process takes of a step."""
        turns = self.accelerator.gradient_accumulation_steps
        shares = share(numbers, self.settings.batch_size, self._process, self.accelerator.num_processes, turns)
        return [self.collate(part) for part in shares]

    def _plan(self) -> list[list[int]]:
        """The samples of every step."""
        s = self.settings
        if s.shuffle:
            lengths = [self.data.length(number) for number in self.numbers]
            epochs = [steps(self.numbers, lengths, s.global_batch, s.seed, epoch) for epoch in range(s.epochs)]
        else:
            epochs = [in_order(self.numbers, s.global_batch)] * s.epochs
        return [step for epoch in epochs for step in epoch][: s.max_steps]

    def _load_vlm(self, device: str) -> FrozenVLM:
        s = self.settings
        pixels = (s.min_pixels, s.max_pixels)
        if s.reader and any(pixels):
            raise UserError("min_pixels and max_pixels have no effect with reader=; leave them out")
        vlm = FrozenVLM.load(s.pretrained, s.dtype, device, s.attn_implementation, *pixels, s.revision)
        return text.as_the_reference(vlm, s.reader, s.revision) if s.reader else vlm

    def _fresh_encoder(self) -> MemoryEncoder:
        s = self.settings
        shape = s.resampler(self.vlm.hidden_size)
        set_seed(s.seed)
        kind = ReferenceEncoder if s.reader else MemoryEncoder
        encoder = kind.create(self.vlm, shape, s.rank, s.alpha, s.dropout)
        # Steps as small as these are lost in bfloat16; peft keeps the adapter in float32 as well.
        encoder.resampler.float()
        if s.start:
            go_on_from(s, encoder)
        set_seed(s.seed, device_specific=True)  # of dropout
        return encoder

    def _accelerator(self, passes: int) -> Accelerator:
        # Text alone leaves the adapter of the vision tower without gradients.
        ddp = DistributedDataParallelKwargs(
            find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        return Accelerator(
            mixed_precision="bf16" if self.vlm.model.dtype == torch.bfloat16 else "no",
            gradient_accumulation_steps=passes,
            cpu=not torch.cuda.is_available(),
            log_with=_tracker(self.settings.tracker),
            project_dir=str(self.out / "logs"),
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[ddp],
        )

    def _about(self, processes: int) -> dict[str, Any]:
        """What a training is of, so that another one is not taken for it."""
        return {
            "settings": asdict(self.settings),
            "processes": processes,
            **fingerprints_of(self.settings, self.data),
        }

    def _check_run(self) -> None:
        """Raises UserError if ``out`` holds another training, or something else."""
        if not (self.out / RUN).is_file():
            begun = {LOCK, f"{RUN}.partial"}  # of one that was killed at once
            if self.out.exists() and not (self.out.is_dir() and {p.name for p in self.out.iterdir()} <= begun):
                raise UserError(f"{self.out} is there and holds no training; give out= a new folder")
            above = next(parent for parent in self.out.absolute().parents if parent.exists())
            if not above.is_dir() or not os.access(above, os.W_OK):
                raise UserError(f"out={str(self.out)!r} cannot be made: {above} is no folder to write to; give another")
            return
        before = read_json(self.out / RUN)
        flat = [
            {**DEFAULTS, **a.get("settings", {}), **{k: a.get(k) for k in self.about if k != "settings"}}
            for a in (before, self.about)
        ]
        for name in flat[1]:
            if name not in FREE and flat[0].get(name) != flat[1][name]:
                raise UserError(
                    f"{self.out} holds an interrupted training with {name}={flat[0].get(name)!r}, not "
                    f"{flat[1][name]!r}; go on with that, or give another out="
                )

    def _start_tracker(self) -> None:
        flat = {name: value for name, value in asdict(self.settings).items() if value is not None}
        self.accelerator.init_trackers("training", config=flat)

    def _note_left_out(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for name, reason in batch.left_out.items():
                if name not in self.progress.left_out:
                    log.warning("%s is left out: %s", name, reason)
                self.progress.left_out[name] = reason

    def _sum(self, value: float) -> float:
        """Over all processes."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, "sum"))

    def _bar(self, start: int) -> Any:
        hidden = not self.accelerator.is_main_process
        return tqdm(total=len(self.planned), initial=start, unit="step", desc="Training", disable=hidden)

    @property
    def _process(self) -> int:
        return self.accelerator.process_index


def _tracker(name: str) -> str | None:
    """The name of a tracker that is there, None for none."""
    there = [str(tracker) for tracker in get_available_trackers()]
    if name == "auto":
        return "tensorboard" if "tensorboard" in there else None
    if name == "none":
        return None
    if name not in there:
        raise UserError(f"tracker={name!r} is not installed, or unknown to accelerate; choose none, {', '.join(there)}")
    return name


def main() -> int:
    """The command line; 2 if the user has to change something (said in one line)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if os.environ.get("RANK", "0") == "0":
        log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(prog="comem_lmms.training.train", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a YAML file, or the name of settings that ship")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="in place of its own"
    )
    arguments = parser.parse_args()
    try:
        train(load(arguments.config, arguments.set))
    except UserError as error:
        return _say(error, 2)
    except torch.OutOfMemoryError as error:
        return _say(f"{one_line(error)} Lower batch_size (the rest is accumulated), max_pixels or top_k", 2)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from the last checkpoint", 130)
    return 0


def _say(what: object, status: int) -> int:
    print(f"comem_lmms.training.train: {what}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
