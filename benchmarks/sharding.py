"""Whether two processes that share the frozen VLM on GPUs learn what one learns: losses, and the bytes that each holds.

    python benchmarks/sharding.py     # two GPUs, or one for both processes, each as if on a machine of its own

The micro VLM in float32 learns from made-up samples for a few steps, in one process, then in two as FSDP2 and as ZeRO-3
(which needs DeepSpeed), activations computed again and kept. NCCL takes one GPU for two if it is told of two machines.
Without a GPU it runs on processors, where the tests have done the same.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import torch
from accelerate.utils import is_deepspeed_available
from answering import make_knowledge
from comem_lmms.training.settings import Settings
from comem_lmms.training.train import Training

from comem_lmms import micro
from training import K, make_data

SAMPLES, GLOBAL_BATCH, STEPS = 24, 6, 4
SWITCHES = {
    "one process": {},
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "zero3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}


def learn(folder: Path, kind: str, again: bool) -> dict[str, Any]:
    """What one of the processes saw."""
    settings = Settings(
        pretrained=micro.NAME,
        data=str(folder / "data"),
        knowledge=str(folder / "knowledge"),
        out=str(folder / f"{kind}-{again}"),
        global_batch=GLOBAL_BATCH,
        batch_size=3,
        activation_checkpointing=again,
        eval_samples=3,
        eval_every=2,
        eval_answers=2,
        eval_tokens=4,
        max_steps=STEPS,
        dropout=0.0,
        lr=1e-3,
        tracker="none",
        dtype="float32",
    )
    training = Training(settings)
    cuda = torch.cuda.is_available()
    held = torch.cuda.memory_allocated() if cuda else None
    training.run()
    progress = training.progress
    device = torch.cuda.get_device_name() if cuda else "CPU"
    return {"device": device, "held": held, "losses": progress.losses, "norms": progress.norms}


def processes(folder: Path, kind: str, again: bool) -> list[dict[str, Any]]:
    """What each of the processes saw; the program ends if one failed."""
    n = 1 if kind == "one process" else 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own_gpu = torch.cuda.device_count() >= n
    started = []
    for rank in range(n):
        env = {**os.environ, **SWITCHES[kind]}
        if n > 1:
            local = rank if own_gpu else 0
            env |= {"RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_RANK": str(local), "MASTER_ADDR": "127.0.0.1"}
            env |= {"MASTER_PORT": str(port)}
        if n > 1 and not own_gpu:
            env |= {"NCCL_HOSTID": f"machine-{rank}", "NCCL_SOCKET_IFNAME": "lo"}
        command = [sys.executable, __file__, "--part", kind, str(int(again)), str(folder)]
        started.append(Popen(command, env=env, stdout=PIPE, text=True))
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit(f"{kind}: failed, see above")
    return [json.loads(text.splitlines()[-1]) for text in printed]


def apart(one: dict[str, Any], other: dict[str, Any], name: str) -> float:
    """How far two processes are from one another, at most."""
    return max(abs(a - b) for a, b in zip(one[name], other[name], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        kind, again, folder = args.part
        print(json.dumps(learn(Path(folder), kind, bool(int(again)))))
        return
    kinds = [kind for kind in SWITCHES if kind != "zero3" or is_deepspeed_available()]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_data(folder / "data", make_knowledge(folder / "knowledge", K * SAMPLES), SAMPLES)
        print("| | activations | device | loss, from one process | norm, from one process | MB held |")
        print("|---|---|---|---:|---:|---:|")
        for again in (True, False):
            (one,) = processes(folder, kinds[0], again)
            for kind in kinds[1:]:
                for found in processes(folder, kind, again):
                    held = "" if found["held"] is None else f"{found['held'] / 1e6:.2f} of {one['held'] / 1e6:.2f}"
                    differences = " | ".join(f"{apart(found, one, name):.1e}" for name in ("losses", "norms"))
                    kept = "again" if again else "kept"
                    print(f"| {kind} | {kept} | {found['device']} | {differences} | {held} |", flush=True)


if __name__ == "__main__":
    main()
