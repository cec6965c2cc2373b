"""The frozen weights cut up among processes: a model in, the same model out, of which each process holds a part.

What accelerate's configuration calls FSDP2 or DeepSpeed (ZeRO-3) is done here and not by accelerate, which cuts up all
that it prepares: the language model's layers, embeddings and head are cut up with PyTorch's ``fully_shard`` or with
DeepSpeed, and put together where they compute. What learns is small and stays whole in each process, under DDP, so that
optimizer, checkpoints and resumption are those of any other training. So does the vision tower: it runs where there are
images, which one process may have and another not, whereas putting weights together takes all processes.
"""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import is_deepspeed_available, is_torch_version
from comem_lmms.training import zero3
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from comem_lmms.attention import attend_in_chunks
from comem_lmms.errors import UserError
from comem_lmms.vlm import FrozenVLM

log = logging.getLogger(__name__)

Kind = Literal["fsdp2", "zero3"]
SWITCHES: dict[str, Kind] = {"ACCELERATE_USE_FSDP": "fsdp2", "ACCELERATE_USE_DEEPSPEED": "zero3"}
OTHERS = ("MEGATRON_LM", "PARALLELISM_CONFIG")
HOW = 'accelerate launch --config_file "$(comem-lmms accelerate-config {})"'
# What of accelerate's settings must be so: the values that it takes where none is given, and ours.
ONLY: dict[Kind, dict[str, tuple[str, str]]] = {
    "fsdp2": {
        "FSDP_VERSION": ("1", "2"),
        "FSDP_RESHARD_AFTER_FORWARD": ("true", "true"),
        "FSDP_OFFLOAD_PARAMS": ("false", "false"),
        "FSDP_ACTIVATION_CHECKPOINTING": ("false", "false"),
    },
    "zero3": {
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": ("2", "3"),
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("none", "none"),
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("none", "none"),
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("none", "none"),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "1"),  # global_batch= and batch_size= decide
        "ACCELERATE_GRADIENT_CLIPPING": ("none", "none"),  # clip= does
    },
}


def take_over() -> Kind | None:
    """How accelerate is configured to cut up weights, which from now on is left to `shard`; None if it is not.

    Raises:
        UserError: it is configured in a way that is not supported, or what it takes is not installed.
    """
    for other in OTHERS:
        if _is_on(f"ACCELERATE_USE_{other}"):
            ways = f"FSDP2 and ZeRO-3 are supported: {HOW.format('fsdp2')}"
            raise UserError(f"accelerate is configured for {other}; of what cuts up weights {ways}")
    for switch, kind in SWITCHES.items():
        if _is_on(switch):
            _check(kind)
            # transformers, too, would go by it, and leave the weights of all processes but one empty.
            os.environ[switch] = "false"
            # Would take the place of ours, which follow from global_batch=.
            os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
            return kind
    return None


def shard(vlms: Sequence[FrozenVLM], device: torch.device, kind: Kind) -> None:
    """Cuts the frozen weights of models up among all processes, and moves what stays whole to a device.

    Models in main memory are moved layer by layer, so that the device never holds more than its part and one layer.

    Args:
        vlms: the same in all processes; of them, what has gradients stays whole.
    """
    _ = [vlm.embeddings_fingerprint for vlm in vlms]  # while there are whole embeddings
    total = [_size(vlm) for vlm in vlms]
    layers = [m for vlm in vlms for m in vlm.model.get_decoder().modules() if isinstance(m, GradientCheckpointingLayer)]
    inputs, outputs = zip(
        *((vlm.model.get_input_embeddings(), vlm.model.get_output_embeddings()) for vlm in vlms), strict=True
    )
    if kind == "fsdp2":
        _fully_shard(vlms, [*layers, *_alone([*inputs, *outputs])], device)
    else:
        zero3.cut_up(layers, inputs, outputs, device)
    for vlm, before in zip(vlms, total, strict=True):
        vlm.model.to(device)
        attend_in_chunks(vlm.model)
        vlm.model._is_fsdp_managed_module = True  # transformers' ``generate`` keeps processes in step
        if PartialState().is_main_process:
            log.info("%s: %.3g of %.3g GB of frozen weights in each process", vlm.name, _size(vlm) / 1e9, before / 1e9)


def _check(kind: Kind) -> None:
    """Raises UserError if accelerate's settings are not those of `ONLY`, or something is not installed."""
    for name, (default, only) in ONLY[kind].items():
        if (value := os.environ.get(name, default).lower()) != only:
            setting = name.removeprefix("ACCELERATE_").lower()
            raise UserError(
                f"accelerate's {setting}={value} is not supported, only {only} is; as in {HOW.format(kind)}"
            )
    if kind == "zero3" and not is_deepspeed_available():
        raise UserError("ZeRO-3 needs DeepSpeed, which is not installed; pip install 'comem-lmms[deepspeed]'")
    if kind == "fsdp2" and not is_torch_version(">=", "2.7.0"):  # the first whose ``fully_shard`` leaves weights whole
        raise UserError(f"FSDP2 needs torch 2.7 or newer, not {torch.__version__}; install it, or use --multi_gpu")


def _fully_shard(vlms: Sequence[FrozenVLM], parts: Sequence[nn.Module], device: torch.device) -> None:
    """FSDP2: each part is put together at once."""
    learning = {p for vlm in vlms for p in vlm.model.parameters() if p.requires_grad}
    # A group of its own: NCCL wants calls in the same order everywhere, and DDP's come when gradients are ready.
    mesh: Any = DeviceMesh.from_group(distributed.new_group(), device.type)
    for part in parts:
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=learning)
    for vlm in vlms:
        # The core has nothing of its own to put together, but has its layers fetched ahead of their turn.
        core = vlm.model.model
        fully_shard(core, mesh=mesh, ignored_params={p for p in core.parameters() if not isinstance(p, DTensor)})
    # Nothing here changes in place what a model gives.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def _alone(ends: Sequence[nn.Module]) -> list[nn.Module]:
    """Embeddings and heads whose weights are theirs alone: as one with others FSDP2 could not use them apart."""
    uses = Counter(id(end.weight) for end in ends)
    return [end for end in ends if uses[id(end.weight)] == 1]


def _size(vlm: FrozenVLM) -> int:
    """Bytes that this process holds of what is frozen."""
    frozen = [p for p in vlm.model.parameters() if not p.requires_grad]
    return sum(zero3.part(p.to_local() if isinstance(p, DTensor) else p).nbytes for p in frozen)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"
