"""What the weights of Qwen2.5-VL-7B take in each process of a training, counted on weights that are not there.

    python benchmarks/training_weights.py

The table goes between the markers in docs/training.md.
"""

from pathlib import Path

import torch
from answering import SHAPES, make_vlm
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from comem_lmms.encoder import MemoryEncoder

DOCUMENT = Path(__file__).parents[1] / "docs/training.md"
START, END = "<!-- weights: written by benchmarks/training_weights.py -->", "<!-- end -->"
PROCESSES = (2, 4, 8)
LEARNING = 16  # bytes: float32, its gradient and the two moments of AdamW


def block() -> str:
    """The part of the document between the markers."""
    meta = torch.device("meta")
    vlm = make_vlm("7b", meta)
    with meta:
        learning = sum(p.numel() for p in MemoryEncoder.create(vlm, SHAPES["7b"].resampler).parameters())
    model = vlm.model
    ends = [_frozen(end) for end in (model.get_input_embeddings(), model.get_output_embeddings())]
    layers = [
        _frozen(layer) for layer in model.get_decoder().modules() if isinstance(layer, GradientCheckpointingLayer)
    ]
    total, cut = _frozen(model), sum(layers) + sum(ends)
    together = max(layers[0] + layers[1], *ends)
    heads = [f"`fsdp2` or `zero3`, {n} processes" if n == PROCESSES[0] else str(n) for n in PROCESSES]
    rows = [
        ["GB in each process", "`ddp`", *heads],
        ["---", *["---:"] * (1 + len(PROCESSES))],
        ["frozen", _gb(2 * total), *(_gb(2 * (total - cut + cut / n)) for n in PROCESSES)],
        ["put together at a time: a layer and the next, or the head", "", *[_gb(2 * together)] * len(PROCESSES)],
        ["what learns, its gradients and AdamW's two moments", *[_gb(LEARNING * learning)] * (1 + len(PROCESSES))],
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    note = (
        f"Counted by `python benchmarks/training_weights.py`: {total / 1e9:.3f} billion frozen weights in bfloat16, of "
        f"which {cut / 1e9:.3f} in layers, embeddings and head; {learning / 1e6:.0f} million that learn, in float32."
    )
    return "\n".join([START, table, "", note, END])


def _frozen(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if not p.requires_grad)


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f}"


def main() -> None:
    before, rest = DOCUMENT.read_text().split(START)
    DOCUMENT.write_text(before + block() + rest.split(END, 1)[1])
    print(block())


if __name__ == "__main__":
    main()
