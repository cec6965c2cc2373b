"""What a step of training costs, ours and as the reference arranges it, with random weights of a real shape.

    python benchmarks/training.py --shape 7b       # Qwen2.5-VL-7B, on a GPU; nothing is downloaded
    python benchmarks/training.py --shape tiny     # on any machine

A sample is a question of about 360 tokens with its image, an answer of some 130 and three items of about 640 each, as
in the paper. Every arrangement runs in a process of its own, so that its peak memory is its own; ratios are within one
run. Steps are those of comem_lmms.training.train with the reference's hyper-parameters.

``reference`` is the reference's arrangement: a second whole copy of the VLM that reads, one sample at a time,
activations of layers computed again, one backward pass through both. ``batch N`` is ours with N samples at a time;
``kept`` is ours without computing activations again, which costs memory, ``tower kept`` without computing the vision
tower again as a whole.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, run
from typing import Any

import datasets
import numpy as np
import torch
from answering import RESULTS, make_knowledge, make_vlm, matmul_ceiling, peak, picture, words_of
from comem_lmms.training.batches import Batch
from comem_lmms.training.learning import Learner, Learnt, checkpoint_activations
from comem_lmms.training.settings import Settings
from comem_lmms.training.train import Training
from comem_lmms.training.watch import Watch

from comem_lmms import micro
from comem_lmms.files import write_json
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.vlm import FrozenVLM

K = 3
QUESTION_WORDS, ANSWER_WORDS = 20, 60
WARM, TIMED = 1, 2  # steps
# Its table goes between the markers in the document.
MEASURED = RESULTS / "training-7b-cuda.json"
# The same before comem_lmms/attention.py was written.
CHUNK_BY_CHUNK = RESULTS / "training-7b-cuda-chunk-by-chunk.json"
DOCUMENT = Path(__file__).parents[1] / "docs/training.md"
START, END = "<!-- step: written by benchmarks/training.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Arrangement:
    """How a step is computed."""

    batch_size: int = 1
    checkpointing: bool = True
    tower: bool = True
    copies: int = 1


ARRANGEMENTS = {
    "reference": Arrangement(tower=False, copies=2),
    "batch 1": Arrangement(),
    "batch 2": Arrangement(batch_size=2),
    "batch 2, tower kept": Arrangement(batch_size=2, tower=False),
    "batch 4": Arrangement(batch_size=4),
    "batch 8": Arrangement(batch_size=8),
    "batch 1, kept": Arrangement(checkpointing=False),
    "batch 4, kept": Arrangement(batch_size=4, checkpointing=False),
}


class Timed(Training):
    """A training of random weights that keeps nothing but the time."""

    def __init__(self, settings: Settings, shape: str, copies: int, tower: bool) -> None:
        self.shape, self.seconds = shape, [0.0]
        super().__init__(settings)
        reader = self.vlm
        if copies == 2:
            reader = FrozenVLM("copy", make_vlm(shape, self.vlm.device).model, self.vlm.processor)
            if settings.activation_checkpointing:
                checkpoint_activations(reader)
            self.learner = OneGraph(self.accelerator, self.learner.compressor, self.encoder, reader)
        if not tower:  # layers alone are computed again
            for vlm in (self.vlm, reader):
                vars(vlm.model.model).pop("get_image_features", None)

    def _load_vlm(self, device: str) -> FrozenVLM:
        return make_vlm(self.shape, torch.device(device))

    def _step(self, batches: list[Batch], watch: Watch) -> None:
        super()._step(batches, watch)  # which waits for the device, since it reads the loss
        self.seconds.append(time.perf_counter())
        self.batch = batches[0]

    def _after(self, watch: Watch, rate: float) -> None:
        """Neither measures nor saves."""

    def _finish(self, began: float, start: int) -> None:
        """Nor saves."""


class OneGraph(Learner):
    """Learns with two copies of the weights, in one backward pass through both."""

    def accumulate(self, batch: Batch, samples: int) -> Learnt:
        scale = self.accelerator.gradient_accumulation_steps / samples
        with self.accelerator.accumulate(self.compressor):
            made = self.encode(batch)
            losses = self.losses(batch, *made)
            with self.encoder.adapter_on():
                self.accelerator.backward(scale * losses.sum())
        return Learnt(losses.detach(), made[0].detach())


def measure(shape: str, name: str, folder: Path, global_batch: int) -> dict[str, float]:
    """What steps of an arrangement cost."""
    arrangement = ARRANGEMENTS[name]
    steps = WARM + TIMED
    knowledge = make_knowledge(folder / "knowledge", K * global_batch * steps)
    settings = Settings(
        pretrained=micro.NAME,
        data=str(make_data(folder / "data", knowledge, global_batch * steps)),
        knowledge=str(knowledge.folder),
        out=str(folder / name.replace(" ", "-")),
        global_batch=global_batch,
        batch_size=min(arrangement.batch_size, global_batch),
        activation_checkpointing=arrangement.checkpointing,
        eval_samples=0,
        max_steps=steps,
        tracker="none",
        dtype="auto",
    )
    training = Timed(settings, shape, arrangement.copies, arrangement.tower)
    device = training.vlm.device
    with peak(device) as memory:
        training.run()
    seconds = float(np.mean(np.diff(training.seconds[WARM:])))
    rate = global_batch / seconds
    return {
        "step_seconds": seconds,
        "samples_per_second": rate,
        "of_matmul_ceiling": rate * operations(training) / matmul_ceiling(device, training.vlm.model.dtype),
        "peak_gb": memory[0],
    }


def operations(training: Timed) -> float:
    """Floating-point operations that a sample needs: forward and backward, no gradients of frozen weights.

    Attention scores, adapter, resampler and head are left out, and so is what is computed again.
    """
    batch, parts = training.batch, training.vlm.model.model
    language = sum(p.numel() for n, p in parts.language_model.named_parameters() if not ("embed" in n or "lora" in n))
    vision = sum(p.numel() for n, p in parts.visual.named_parameters() if "lora" not in n)
    samples = len(batch.places)
    encoding = language * batch.items["attention_mask"].sum().item() + vision * len(batch.items["pixel_values"])
    reading = language * batch.question["attention_mask"].sum().item()
    looking = vision * len(batch.question["pixel_values"])  # forward alone
    return 2 * (2 * encoding + 2 * reading + looking) / samples


def make_data(folder: Path, knowledge: KnowledgeBase, n: int) -> Path:
    """``n`` samples; made by the first process, opened by the others."""
    if folder.is_dir():
        return folder
    rng = np.random.RandomState(1)
    ids = [knowledge.id(row) for row in range(K * n)]
    columns = {
        "image": [picture(rng) for _ in range(n)],
        "prompt": [words_of(rng, QUESTION_WORDS) for _ in range(n)],
        "answer": [words_of(rng, ANSWER_WORDS) for _ in range(n)],
        "item_ids": [ids[K * i : K * (i + 1)] for i in range(n)],
        "task": ["made up"] * n,
        "document": list(range(n)),
        "language": ["en"] * n,
    }
    features = datasets.Features({name: datasets.Value("string") for name in columns})
    features |= {"image": datasets.Image(), "document": datasets.Value("int64")}
    features |= {"item_ids": datasets.List(datasets.Value("string"))}
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(str(folder))
    about = {"fingerprint": knowledge.fingerprint, "folder": str(knowledge.folder)}
    write_json(folder / "manifest.json", {"knowledge": about, "samples": n})
    return folder


def table(record: dict[str, Any]) -> str:
    """Markdown of a record."""
    lines = [
        "| arrangement | s a step | samples/s | : reference | peak GB | : reference | of the matmul ceiling |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    reference = record["arrangements"].get("reference", {})
    for name, m in record["arrangements"].items():
        speed, memory = (
            f"{m[what] / reference[what]:.2f}" if reference else "" for what in ("samples_per_second", "peak_gb")
        )
        lines.append(
            f"| {name} | {m['step_seconds']:.2f} | {m['samples_per_second']:.2f} | {speed} | {m['peak_gb']:.1f} | "
            f"{memory} | {m['of_matmul_ceiling']:.2f} |"
        )
    return "\n".join(lines)


def block(record: dict[str, Any]) -> str:
    """The part of the document between the markers."""
    libraries = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    note = (
        f"Measured by `python benchmarks/training.py --shape {record['shape']}` on {record['date']}, "
        f"{record['device']}, with random weights; {record['global_batch']} samples a step. {libraries}."
    )
    before = json.loads(CHUNK_BY_CHUNK.read_text())["arrangements"]
    slower = " and ".join(f"`{name}` {m['step_seconds']:.1f} s a step" for name, m in before.items())
    chunks = (
        "All attend within all chunks of the vision tower at once (`comem_lmms/attention.py`); with transformers' call "
        f"for each chunk, on the same hardware, {slower}."
    )
    return "\n".join([START, table(record), "", note, "", chunks, END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=("7b", "3b", "tiny"), default="tiny")
    parser.add_argument("--arrangements", nargs="+", choices=ARRANGEMENTS, default=list(ARRANGEMENTS))
    parser.add_argument("--global-batch", type=int, default=16, help="samples a step (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/training-SHAPE-DEVICE.json")
    parser.add_argument("--arrangement", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arrangement:
        print(json.dumps(measure(args.shape, args.arrangement, args.folder, args.global_batch)))
        return
    cuda = torch.cuda.is_available()
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
        "shape": args.shape,
        "global_batch": args.global_batch,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
        "arrangements": {},
    }
    out = args.out or RESULTS / f"training-{args.shape}-{'cuda' if cuda else 'cpu'}.json"
    with tempfile.TemporaryDirectory() as folder:
        for name in args.arrangements:
            command = [sys.executable, __file__, "--shape", args.shape, "--global-batch", str(args.global_batch)]
            done = run([*command, "--folder", folder, "--arrangement", name], stdout=PIPE, text=True)
            if done.returncode:  # out of memory, say; the others count
                print(f"{name}: failed, see above", file=sys.stderr)
                continue
            record["arrangements"][name] = json.loads(done.stdout.splitlines()[-1])
            print(name, record["arrangements"][name], file=sys.stderr)
            out.write_text(json.dumps(record, indent=1) + "\n")
    if out == MEASURED:
        write_document()
    print(table(record))


def write_document() -> None:
    """Puts what was measured into the document."""
    text = DOCUMENT.read_text()
    made = block(json.loads(MEASURED.read_text()))
    DOCUMENT.write_text(text.split(START)[0] + made + text.split(START)[1].split(END, 1)[1])


if __name__ == "__main__":
    main()
