"""Run by two processes: a step of models that are cut up, compared with that of whole ones. Prints a line a model.

accelerate launch ... tests/in_parts.py fsdp2|zero3 FOLDER ...
"""

import gc
import json
import sys
from contextlib import contextmanager
from functools import partial
from unittest import mock

import tiny
import torch
from accelerate import Accelerator
from comem_lmms.training.batches import NO_QUESTION, NOTHING, Batch
from comem_lmms.training.learning import Compressor, Learner, checkpoint_activations
from comem_lmms.training.shards import shard
from comem_lmms.training.zero3 import part
from tiny import CHATS, ITEMS
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.vlm import FrozenVLM


def make(folder):
    torch.manual_seed(2)
    encoder = MemoryEncoder.create(FrozenVLM.load(folder, device="cpu"), tiny.RESAMPLER, rank=4, dropout=0.0)
    for name, parameter in encoder.vlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def batch_of(encoder, process):
    """Images for one process, neither image nor sample for the other."""
    if process == 1:
        return Batch(encoder.tokenize([NOTHING]), [], [], *encoder.vlm.prepare_answered([NO_QUESTION], ["."]), {})
    told = encoder.vlm.prepare_answered(CHATS[:4], ["no", "it is Petra", "", "somebody else"])
    return Batch(encoder.tokenize(ITEMS[:4]), [0, 1, 2, 3], [[], [1, 0], [2], [3, 1, 0]], *told, {})


def step(accelerator, encoder, batch):
    """The losses and gradients of a batch in this process alone, then forgotten."""
    learnt = Learner(accelerator, Compressor(encoder), encoder, encoder.vlm).accumulate(batch, 4)
    learning = encoder.parameters()
    gradients = [None if p.grad is None else p.grad.clone() for p in learning]
    for parameter in learning:
        parameter.grad = None
    return learnt.losses, gradients


def apart(got, expected):
    """How far two lists of tensors are from one another, at most; infinite where only one has a tensor."""
    pairs = list(zip(got, expected, strict=True))
    if any((a is None) != (b is None) for a, b in pairs):
        return float("inf")
    return max(((a - b).abs().max().item() for a, b in pairs if a is not None and a.numel()), default=0.0)


def held():
    """Bytes of all tensors there are."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor)]
    locals_ = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in locals_}.values())


def local(parameter):
    """What this process has of it; the parameter itself if it is not cut up."""
    return parameter.to_local() if isinstance(parameter, DTensor) else part(parameter)


def together(parameter, kind):
    """What all processes have of it."""
    if kind == "fsdp2":
        return parameter.full_tensor()
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


@contextmanager
def counting_views(model):
    """Counts what is kept for the backward pass that is not a weight but lies in one, so would keep it whole."""
    cut = [p for p in model.parameters() if local(p) is not p]
    views = []

    def pack(tensor):
        if isinstance(tensor, torch.nn.Parameter):
            return tensor
        whole = {p.untyped_storage().data_ptr() for p in cut if p.numel()}
        views.extend([tensor.shape] if tensor.untyped_storage().data_ptr() in whole else [])
        return tensor.detach()  # itself, it could hold what holds it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield views


@contextmanager
def calling_hooks_again():
    """Activations are computed again as transformers 5.0 does it: the layer is called again, and with it its hooks."""

    def call(layer, *args, **kwargs):
        return checkpoint(partial(torch.nn.Module.__call__, layer, **kwargs), *args, use_reentrant=False)

    with mock.patch.object(GradientCheckpointingLayer, "__call__", call):
        yield


def compare(folder, accelerator, kind):
    encoder = make(folder)
    batch, model = batch_of(encoder, accelerator.process_index), encoder.vlm.model
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    losses, gradients = step(accelerator, encoder, batch)
    some = {"max_new_tokens": 2 + 3 * accelerator.process_index}  # not the same in both
    said = encoder.vlm.generate(CHATS[:1], **some)

    def differs():
        again = step(accelerator, encoder, batch)
        return max(apart([again[0]], [losses]), apart(again[1], gradients))

    whole = held()
    shard([encoder.vlm], accelerator.device, kind)
    cut = {name for name, p in model.named_parameters() if local(p) is not p}
    if kind == "fsdp2":  # which empties what views lie in
        found = {"kept": differs(), "views": 0}
    else:
        with counting_views(model) as views:
            found = {"kept": differs()}
        found["views"] = len(views)
    with calling_hooks_again():
        found["hooks"] = differs()
    checkpoint_activations(encoder.vlm)
    found |= {"again": differs(), "answers": encoder.vlm.generate(CHATS[:1], **some) == said}
    saved = whole - held()
    found["after"] = differs()  # answering leaves nothing behind
    now = {name: together(p, kind) if name in cut else p for name, p in model.named_parameters()}
    return {
        **found,
        "saved": saved / sum(frozen[name].nbytes for name in cut),
        "cut": sum(frozen[name].nbytes for name in cut) / sum(p.nbytes for p in frozen.values()),
        "largest": max(g.abs().max().item() for g in gradients if g is not None),
        "ddp": all(local(p) is p for p in Compressor(encoder).parameters()),  # else accelerate refuses it on GPUs
        "embeddings": local(model.get_input_embeddings().weight) is not model.get_input_embeddings().weight,
        "head": any(name.startswith("lm_head") for name in cut),
        "vision": any("vision" in name or "visual" in name for name in cut),
        "unchanged": all(torch.equal(now[name], weight) for name, weight in frozen.items()),
        "learning": sum(gradient is not None for gradient in gradients),
    }


if __name__ == "__main__":
    started = Accelerator(cpu=True)
    kind, *folders = sys.argv[1:]
    for folder in folders:
        print("\nCOMPARED " + json.dumps({"folder": folder, **compare(folder, started, kind)}), flush=True)
    started.end_training()
