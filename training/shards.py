"""The frozen weights cut up among processes: a model in, the same model out, of which each process holds a part.

What accelerate's configuration calls FSDP2 is done here and not by accelerate, which cuts up all that it prepares: the
language model's layers, embeddings and head are cut up with PyTorch's ``fully_shard``, and put together one layer at a
time where they compute. What learns is small and stays whole in each process, under DDP, so that optimizer, checkpoints
and resumption are those of any other training. So does the vision tower: it runs where there are images, which one
process may have and another not, whereas putting weights together takes all processes.
"""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import is_torch_version
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from comem_lmms.attention import attend_in_chunks
from comem_lmms.errors import UserError
from comem_lmms.vlm import FrozenVLM

log = logging.getLogger(__name__)

SWITCH = "ACCELERATE_USE_FSDP"
OTHERS = ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
HOW = 'accelerate launch --config_file "$(comem-lmms accelerate-config fsdp2)"'
# What of accelerate's settings must be so: the values that it takes where none is given, and ours.
ONLY = {
    "FSDP_VERSION": ("1", "2"),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "true"),
    "FSDP_OFFLOAD_PARAMS": ("false", "false"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("false", "false"),
}


def take_over() -> bool:
    """Whether accelerate is configured to cut up weights, which from now on is left to `shard`.

    Raises:
        UserError: it is configured in a way that is not supported.
    """
    for kind in OTHERS:
        if _is_on(f"ACCELERATE_USE_{kind}"):
            raise UserError(f"accelerate is configured for {kind}; of what cuts up weights FSDP2 is supported: {HOW}")
    if not _is_on(SWITCH):
        return False
    for name, (default, only) in ONLY.items():
        if (value := os.environ.get(name, default).lower()) != only:
            raise UserError(f"accelerate's {name.lower()}={value} is not supported, only {only} is; as in {HOW}")
    if not is_torch_version(">=", "2.7.0"):  # the first whose ``fully_shard`` leaves some weights whole
        raise UserError(f"FSDP2 needs torch 2.7 or newer, not {torch.__version__}; install it, or use --multi_gpu")
    # transformers, too, would go by it, and leave the weights of all processes but one empty.
    os.environ[SWITCH] = "false"
    return True


def shard(vlms: Sequence[FrozenVLM], device: torch.device) -> None:
    """Cuts the frozen weights of models up among all processes, and moves what stays whole to a device.

    Models in main memory are moved layer by layer, so that the device never holds more than its part and one layer.

    Args:
        vlms: the same in all processes; of them, what has gradients stays whole.
    """
    _ = [vlm.embeddings_fingerprint for vlm in vlms]  # while there are whole embeddings
    total = [_size(vlm) for vlm in vlms]
    layers = [m for vlm in vlms for m in vlm.model.get_decoder().modules() if isinstance(m, GradientCheckpointingLayer)]
    learning = {p for vlm in vlms for p in vlm.model.parameters() if p.requires_grad}
    # A group of its own: NCCL wants calls in the same order everywhere, and DDP's come when gradients are ready.
    mesh: Any = DeviceMesh.from_group(distributed.new_group(), device.type)
    for part in [*layers, *_ends(vlms)]:
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=learning)
    for vlm, before in zip(vlms, total, strict=True):
        # The core has nothing of its own to put together, but has its layers fetched ahead of their turn.
        core = vlm.model.model
        fully_shard(core, mesh=mesh, ignored_params={p for p in core.parameters() if not isinstance(p, DTensor)})
        vlm.model.to(device)
        attend_in_chunks(vlm.model)
        vlm.model._is_fsdp_managed_module = True  # transformers' ``generate`` keeps processes in step
        if PartialState().is_main_process:
            log.info("%s: %.3g of %.3g GB of frozen weights in each process", vlm.name, _size(vlm) / 1e9, before / 1e9)
    # Nothing here changes in place what a model gives.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def _ends(vlms: Sequence[FrozenVLM]) -> list[torch.nn.Module]:
    """Embeddings and heads whose weights are theirs alone: as one with others they could not be used apart."""
    models = [vlm.model for vlm in vlms]
    ends = [end for model in models for end in (model.get_input_embeddings(), model.get_output_embeddings())]
    uses = Counter(id(end.weight) for end in ends)
    return [end for end in ends if uses[id(end.weight)] == 1]


def _size(vlm: FrozenVLM) -> int:
    """Bytes that this process holds of what is frozen."""
    frozen = [p for p in vlm.model.parameters() if not p.requires_grad]
    return sum((p.to_local() if isinstance(p, DTensor) else p).nbytes for p in frozen)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"
