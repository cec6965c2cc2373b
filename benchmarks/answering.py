"""What answering costs, by method, with random weights of a real shape: a shape in, JSON and a table out.

    python benchmarks/answering.py --shape 7b       # Qwen2.5-VL-7B, on a GPU; nothing is downloaded
    python benchmarks/answering.py --shape tiny     # on any machine
    python benchmarks/answering.py --shape 3b --methods baseline comem_on_the_spot    # what fits in 16 GB of memory

A question is about 360 tokens with its image, an item about 640, and each question has ten items of its own. Answers
are cut at the same number of tokens, so that all methods write equally much. Every method runs in a process of its
own, one after the other, so that its peak memory is its own; ratios are within one run.

``reference`` is the way of working of the reference implementation: batch size 1, a second copy of the VLM that reads,
and ten items encoded anew for each question.
"""

import argparse
import io
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from comem_lmms import micro
from comem_lmms.encoder import MemoryEncoder
from comem_lmms.knowledge import KnowledgeBase, Row
from comem_lmms.memory import BankInfo, MemoryBank, ProcessMemories, fill, prefix
from comem_lmms.microseek.words import ATTRIBUTES
from comem_lmms.prompts import rag_messages
from comem_lmms.resampler import ResamplerConfig
from comem_lmms.vlm import FrozenVLM, load_processor

K = 10
SIDE = 504  # pixels; 324 tokens
QUESTION_WORDS, ITEM_WORDS = 20, 300
METHODS = ("baseline", "vanilla_rag", "memorize", "comem_warm", "comem_on_the_spot", "reference")
RESULTS = Path(__file__).parent / "results"
# Its table goes between the markers in the document.
MEASURED = RESULTS / "answering-tiny-cpu.json"
DOCUMENT = Path(__file__).parents[1] / "docs/memory.md"
START, END = "<!-- answering: written by benchmarks/answering.py -->", "<!-- end -->"
IMPORTED = psutil.Process().memory_info().rss  # bytes before there is a model


@dataclass(frozen=True)
class Shape:
    """Sizes of a VLM and its resampler, and how much is asked of it."""

    text: dict[str, int]
    vision: dict[str, int]
    resampler: ResamplerConfig
    questions: int
    batch: int
    new_tokens: int
    dtype: torch.dtype = torch.bfloat16
    tied: bool = True  # the head's weights are the embeddings'


SHAPES = {
    "7b": Shape(
        text={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        vision={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
        resampler=ResamplerConfig(dim=3584, input_dim=3584),
        questions=64,
        batch=16,
        new_tokens=32,
        tied=False,
    ),
    "3b": Shape(
        text={
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        vision={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048},
        resampler=ResamplerConfig(dim=2048, input_dim=2048),
        questions=1,
        batch=1,
        new_tokens=4,
    ),
    "tiny": Shape(
        text={
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        vision={"depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "out_hidden_size": 256},
        resampler=ResamplerConfig(dim=256, input_dim=256, heads=4, dim_head=64),
        questions=8,
        batch=4,
        new_tokens=16,
        dtype=torch.float32,
    ),
}
MROPE = {"7b": [16, 24, 24], "3b": [16, 24, 24], "tiny": [8, 12, 12]}
FULL_ATTENTION = {"7b": [7, 15, 23, 31], "3b": [7, 15, 23, 31], "tiny": [3]}


class Bench:
    """One process's model, items and questions."""

    def __init__(self, name: str, device: str, folder: Path) -> None:
        self.shape, self.device = SHAPES[name], torch.device(device)
        self.vlm = make_vlm(name, self.device)
        self.knowledge = make_knowledge(folder / "knowledge", self.shape.questions * K)
        self.bank_folder = folder / "bank"
        self.chats = [make_chat(i) for i in range(self.shape.questions)]
        self.rows = [list(range(i * K, (i + 1) * K)) for i in range(self.shape.questions)]

    def run(self, method: str) -> dict[str, float]:
        """What a method costs."""
        return getattr(self, method)()

    def baseline(self) -> dict[str, float]:
        return self.measure(lambda some, **more: self.answer(self.vlm, [self.chats[i] for i in some], **more))

    def vanilla_rag(self) -> dict[str, float]:
        def answer(some: list[int], **more: int) -> None:
            chats = [rag_messages(self.chats[i], [self.knowledge[row] for row in self.rows[i]]) for i in some]
            self.answer(self.vlm, chats, **more)

        return self.measure(answer)

    def comem_on_the_spot(self) -> dict[str, float]:
        encoder = self.encoder()

        def answer(some: list[int], **more: int) -> None:
            memories = ProcessMemories()
            rows = [row for i in some for row in self.rows[i]]
            fill(memories, self.knowledge, rows, encoder, self.shape.batch, quiet=True)
            self.answer(self.vlm, [self.chats[i] for i in some], self.prefixes(memories, some), **more)

        return self.measure(answer)

    def comem_warm(self) -> dict[str, float]:
        bank = MemoryBank.open(self.bank_folder)

        def answer(some: list[int], **more: int) -> None:
            self.answer(self.vlm, [self.chats[i] for i in some], self.prefixes(bank, some), **more)

        return self.measure(answer)

    def reference(self) -> dict[str, float]:
        reader = FrozenVLM("copy", deepcopy(self.vlm.model), self.vlm.processor)
        encoder = self.encoder()

        def answer(some: list[int], **more: int) -> None:
            memories = encoder.encode([self.knowledge[row] for row in self.rows[some[0]]])  # (K, 8, D)
            self.answer(reader, [self.chats[some[0]]], [memories.flatten(0, 1)], **more)

        return self.measure(answer, batch=1)

    def memorize(self) -> dict[str, float]:
        """Makes the bank; its speed beside that of plain matrix products."""
        encoder = self.encoder()
        dtype = str(self.vlm.model.dtype).removeprefix("torch.")
        info = BankInfo({}, "random", "-", 8, self.vlm.hidden_size, dtype)
        bank = MemoryBank.create(self.bank_folder, info)
        encoder.encode([self.knowledge[row] for row in range(K)])
        items = len(self.knowledge)
        with peak(self.device) as memory:
            seconds = timed(lambda: fill(bank, self.knowledge, range(items), encoder, self.shape.batch), self.device)
        inputs = encoder.tokenize([self.knowledge[0]])
        tokens, patches = inputs["input_ids"].shape[1], len(inputs["pixel_values"])
        parts = self.vlm.model.model
        language = sum(p.numel() for n, p in parts.language_model.named_parameters() if "embed" not in n)
        vision = sum(p.numel() for p in parts.visual.parameters())
        flops = 2 * (language * tokens + vision * patches)  # attention scores left out
        return {
            "items_per_second": items / seconds,
            "item_tokens": tokens,
            "of_matmul_ceiling": items * flops / seconds / matmul_ceiling(self.device, self.vlm.model.dtype),
            "peak_gb": memory[0],
        }

    def encoder(self) -> MemoryEncoder:
        encoder = MemoryEncoder.create(self.vlm, self.shape.resampler, dropout=0.0)
        encoder.resampler.eval().requires_grad_(False)
        return encoder

    def prefixes(self, memories: Any, some: list[int]) -> list[torch.Tensor]:
        keys = [[self.knowledge.key(row) for row in reversed(self.rows[i])] for i in some]
        return [prefix(memories, found).to(self.device) for found in keys]

    def answer(
        self, vlm: FrozenVLM, chats: list[Any], prefixes: list[torch.Tensor] | None = None, new_tokens: int = 0
    ) -> None:
        n = new_tokens or self.shape.new_tokens
        answers = vlm.generate(chats, prefixes, max_new_tokens=n, min_new_tokens=n)
        self.prompt_tokens = answers[0].prompt_tokens

    def measure(self, answer: Callable[..., None], batch: int = 0) -> dict[str, float]:
        batch = batch or self.shape.batch
        batches = [list(range(i, min(i + batch, self.shape.questions))) for i in range(0, self.shape.questions, batch)]
        if batch == 1:
            batches = batches[: max(4, self.shape.questions // 8)]
        answer(batches[0])  # warm-up
        with peak(self.device) as memory:
            seconds = timed(lambda: [answer(some) for some in batches], self.device)
        first = [timed(lambda i=i: answer([i], new_tokens=1), self.device) for i in range(min(4, self.shape.questions))]
        return {
            "questions_per_second": sum(map(len, batches)) / seconds,
            "first_token_seconds": statistics.median(first),
            "peak_gb": memory[0],
            "prompt_tokens": self.prompt_tokens,
        }


def make_vlm(name: str, device: torch.device) -> FrozenVLM:
    """Random weights of a shape, with the micro tokenizer."""
    shape = SHAPES[name]
    config = AutoConfig.from_pretrained(micro.resolve(micro.NAME, "vlm"))
    for key, value in shape.text.items():
        setattr(config.text_config, key, value)
    config.text_config.rope_parameters["mrope_section"] = MROPE[name]
    config.text_config.max_position_embeddings = 32768
    config.text_config.layer_types = ["full_attention"] * shape.text["num_hidden_layers"]
    config.text_config.initializer_range = 0.02
    for key, value in shape.vision.items():
        setattr(config.vision_config, key, value)
    config.vision_config.fullatt_block_indexes = FULL_ATTENTION[name]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = shape.tied
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=shape.dtype)
    return FrozenVLM("random", model, load_processor(micro.NAME, SIDE * SIDE, SIDE * SIDE))


def make_knowledge(folder: Path, n: int) -> KnowledgeBase:
    """``n`` items of about 640 tokens; made by the first process, opened by the others."""
    if folder.is_dir():
        return KnowledgeBase.open(folder)
    rng = np.random.RandomState(0)
    rows = (Row(f"item-{i}", "", words_of(rng, ITEM_WORDS), _jpeg(rng)) for i in range(n))
    return KnowledgeBase.create(folder, rows)


def make_chat(seed: int) -> list[dict[str, Any]]:
    """A question of about 360 tokens."""
    rng = np.random.RandomState(1000 + seed)
    content = [{"type": "image", "url": picture(rng)}, {"type": "text", "text": words_of(rng, QUESTION_WORDS)}]
    return [{"role": "user", "content": content}]


def words_of(rng: np.random.RandomState, n: int) -> str:
    words = [word for attribute in ATTRIBUTES for word in attribute.values]
    return " ".join(words[i] for i in rng.randint(len(words), size=n))


def picture(rng: np.random.RandomState) -> Image.Image:
    return Image.fromarray(rng.randint(256, size=(SIDE // 28, SIDE // 28, 3)).astype(np.uint8)).resize((SIDE, SIDE))


def _jpeg(rng: np.random.RandomState) -> bytes:
    buffer = io.BytesIO()
    picture(rng).save(buffer, "JPEG")
    return buffer.getvalue()


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that work takes, the device's part included."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@contextmanager
def peak(device: torch.device) -> Iterator[list[float]]:
    """The peak of memory within the context, in GB: of the GPU, or of this process over what it had imported."""
    found = [0.0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) / 1e9
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found[0] = max(found[0], (psutil.Process().memory_info().rss - IMPORTED) / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield found
    done.set()
    watcher.join()


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of large matrix products, the best of five."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * n**3 / min(timed(lambda: torch.mm(a, b), device) for _ in range(5))


def ratios(found: dict[str, dict[str, float]]) -> list[tuple[str, float, str]]:
    """What is claimed, what came out, and the goal on one H200; of the methods that were run."""

    def ratio(one: str, other: str, what: str) -> float:
        return found[one][what] / found[other][what] if {one, other} <= found.keys() else math.nan

    claims = [
        ("time a question, warm bank : baseline", ratio("baseline", "comem_warm", "questions_per_second"), "<= 1.10"),
        ("first token, RAG : warm bank", ratio("vanilla_rag", "comem_warm", "first_token_seconds"), ">= 4"),
        ("questions/s, warm bank : reference", ratio("comem_warm", "reference", "questions_per_second"), ">= 10"),
        ("peak memory, encoding on the spot : baseline", ratio("comem_on_the_spot", "baseline", "peak_gb"), "<= 1.15"),
        ("peak memory, reference : baseline", ratio("reference", "baseline", "peak_gb"), "about 2"),
        ("encoding : matmul ceiling", found.get("memorize", {}).get("of_matmul_ceiling", math.nan), ">= 0.40"),
    ]
    return [claim for claim in claims if not math.isnan(claim[1])]


def block(record: dict[str, Any]) -> str:
    """The part of the document between the markers."""
    threads, tokens = record["threads"], record["methods"]["memorize"]["item_tokens"]
    note = (
        f"Measured by `python benchmarks/answering.py --shape {record['shape']}` on {record['date']}, "
        f"{record['device']}, {threads} threads, with random weights; {K} items of {tokens} tokens a question."
    )
    return "\n".join([START, table(record), "", note, END])


def table(record: dict[str, Any]) -> str:
    """Markdown of a record."""
    lines = [
        "| method | questions/s | first token s | peak GB | prompt tokens |",
        "|---|---:|---:|---:|---:|",
    ]
    for method, m in record["methods"].items():
        if method == "memorize":
            continue
        lines.append(
            f"| {method} | {m['questions_per_second']:.2f} | {m['first_token_seconds']:.3f} | {m['peak_gb']:.2f} | "
            f"{m['prompt_tokens']:.0f} |"
        )
    lines += ["", "| ratio | measured | goal on one H200 |", "|---|---:|---|"]
    lines += [f"| {name} | {value:.2f} | {goal} |" for name, value, goal in ratios(record["methods"])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/answering-SHAPE-DEVICE.json")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(Bench(args.shape, args.device, args.folder).run(args.method)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        # The bank is made where it is used.
        methods = [m for m in METHODS if m in args.methods or (m == "memorize" and "comem_warm" in args.methods)]
        for method in methods:
            command = [sys.executable, __file__, "--shape", args.shape, "--device", args.device, "--folder", folder]
            done = subprocess.run([*command, "--method", method], check=True, stdout=subprocess.PIPE, text=True)
            found[method] = json.loads(done.stdout.splitlines()[-1])
            print(method, found[method], file=sys.stderr)
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"CPU ({platform.machine()})"
    libraries = {name: version(name) for name in ("torch", "transformers", "peft")}
    record = {
        "date": date.today().isoformat(),
        "device": device,
        "shape": args.shape,
        "threads": torch.get_num_threads(),
        "versions": libraries,
        "methods": found,
    }
    out = args.out or RESULTS / f"answering-{args.shape}-{args.device.partition(':')[0]}.json"
    out.write_text(json.dumps(record, indent=1) + "\n")
    if out == MEASURED and set(found) == set(METHODS):
        text = DOCUMENT.read_text()
        DOCUMENT.write_text(text.split(START)[0] + block(record) + text.split(START)[1].split(END, 1)[1])
    print(table(record))


if __name__ == "__main__":
    main()
