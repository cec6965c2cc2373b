"""What the micro recipes share: realms to train on that the benchmark does not contain, the loop, the log."""

import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from comem_lmms.errors import UserError
from comem_lmms.files import write_json
from comem_lmms.microseek import world

START = time.monotonic()
PATIENCE = 0.4  # of a schedule's steps, to wait at most


def training_realms(seed: int, n: int) -> list[world.Realm]:
    """``n`` realms that share neither a name nor an emblem with the shipped world."""
    return world.make_realms(seed, n, avoid=world.make_realms(world.SEED, world.N_REALMS))


def train(parameters: list[nn.Parameter], losses: Iterable[tuple[int, Tensor]], steps: int, lr: float) -> list[float]:
    """Steps AdamW on every loss: linear warm-up over 5 %, cosine to zero, clipping at 1.

    Args:
        parameters: what learns.
        losses: pairs of a position in the schedule, 0 to ``steps - 1``, and a loss; a position may come several times.
        steps: the schedule's length.
        lr: the highest learning rate.

    Returns:
        Every loss.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    curve: list[float] = []
    with tqdm(total=steps, mininterval=5) as bar:
        for step, loss in losses:
            for group in optimizer.param_groups:
                group["lr"] = lr * _schedule(step, steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            curve.append(loss.item())
            bar.set_postfix_str(f"step {len(curve)}, loss {np.mean(curve[-50:]):.3f}", refresh=step < bar.n)
            bar.update(step + 1 - bar.n)
    return curve


def waiting(loss_at: Callable[[int], Tensor], steps: int, ends: Mapping[int, float]) -> Iterator[tuple[int, Tensor]]:
    """Positions 0 to ``steps - 1`` of a schedule and their losses; at ``ends`` it waits until enough is learnt.

    Seeds differ in how soon they find out how to do a thing. What was not learnt on easy pages is not made up for on
    hard ones, so the last position of an easy stage comes again and again, for `PATIENCE` of the steps at most.

    Args:
        loss_at: the loss at a position.
        steps: the schedule's length.
        ends: positions to wait at, and the mean of the last 50 losses to wait for.
    """
    recent: deque[float] = deque(maxlen=50)
    for step in range(steps):
        for _ in range(1 + int(PATIENCE * steps) * (step in ends)):
            loss = loss_at(step)
            yield step, loss
            recent.append(loss.item())
            if np.mean(recent) <= ends.get(step, np.inf):
                break


def run(module: str, *arguments: str) -> None:
    """Runs a module as its users do, and says so."""
    print(json.dumps([module, *arguments]), file=sys.stderr)
    status = subprocess.run([sys.executable, "-m", module, *arguments]).returncode
    if status:
        sys.exit(status)  # it has said why, unless it was killed


@contextmanager
def in_one_line() -> Iterator[None]:
    """Ends the process with status 2 where the user has to change something, and says what."""
    try:
        yield
    except UserError as error:
        print(f"comem_lmms.training.micro: {error}", file=sys.stderr)
        sys.exit(2)


def write_log(folder: Path, settings: dict[str, object], curve: list[float], **measured: object) -> None:
    """Writes ``training.json`` beside the weights: settings, what made it and how long, the loss every 10 steps."""
    session = {"minutes": round((time.monotonic() - START) / 60, 1), "threads": torch.get_num_threads()}
    versions = {name: version(name) for name in ("torch", "transformers", "numpy", "pillow")}
    losses = [round(float(np.mean(curve[i : i + 10])), 4) for i in range(0, len(curve), 10)]
    record = {"settings": settings, "last_session": session, "versions": versions, "measured": measured, "loss": losses}
    write_json(folder / "training.json", record)


def _schedule(step: int, steps: int) -> float:
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm_up) / (steps - warm_up))))
