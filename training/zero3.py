"""DeepSpeed's ZeRO-3 for what is frozen: modules in, the same modules out, of whose weights each process holds a part.

A module's weights are put together, all at once, when it is its turn, forward and backward, and given up behind it.
DeepSpeed's own hooks do not foresee that layers compute twice before they are differentiated, as an encoder and then as
a reader: in the second backward pass they would give nothing up.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


def cut_up(
    layers: Iterable[nn.Module], inputs: Iterable[nn.Module], outputs: Iterable[nn.Module], device: torch.device
) -> None:
    """Cuts the frozen weights of modules up among all processes, which must use them in the same order.

    Args:
        layers: modules whose one input with gradients is their first argument.
        inputs, outputs: token embeddings and heads; may be shared.
        device: where what each process holds is to be.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # else it takes a GPU where there is one
    import deepspeed

    # On a processor DeepSpeed would compile a kernel for a sum that is not taken here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    embeddings, differentiated = dict.fromkeys(inputs), dict.fromkeys([*layers, *outputs])
    frozen = {module: _frozen(module) for module in (*embeddings, *differentiated)}
    each = nn.ParameterList(dict.fromkeys(weight for weights in frozen.values() for weight in weights))
    # This also replaces PyTorch's linear function, which would keep whole weights for the backward pass.
    deepspeed.zero.Init(module=each, data_parallel_group=distributed.new_group(), dtype=each[0].dtype)
    uses = _Uses()
    for module, weights in frozen.items():
        uses.follow(module, weights, module in differentiated)
    for module in embeddings:
        # Else a first layer would have an input with gradients where there is an image, and in another process none.
        module.register_forward_hook(lambda module, args, output: output.requires_grad_())


def part(parameter: Tensor) -> Tensor:
    """What this process holds of a weight: a part of it, laid out flat, or all of it if it is not cut up."""
    return getattr(parameter, "ds_tensor", parameter)


class _Uses:
    """How often weights are in use: where a layer computes its activations again, its backward pass uses them too.

    (Its hooks are called again then with transformers 5.0, with 5.24 they are not.)
    """

    def __init__(self) -> None:
        self.counts: Counter[Any] = Counter()

    def follow(self, module: nn.Module, weights: Sequence[Any], is_differentiated: bool) -> None:
        """Puts the weights of a module together for each of its forward and backward passes."""

        def begin(*_: Any) -> None:
            self.begin(weights)

        def end(*_: Any) -> None:
            self.end(weights)

        module.register_forward_pre_hook(begin)
        # An exception is how PyTorch ends computing activations again once it has what it needs.
        module.register_forward_hook(end, always_call=True)
        if is_differentiated:
            module.register_full_backward_pre_hook(begin)
            module.register_full_backward_hook(end)

    def begin(self, weights: Sequence[Any]) -> None:
        needed = [weight for weight in weights if not self.counts[weight]]
        self.counts.update(weights)
        if needed:
            needed[0].all_gather_coalesced(needed).wait()

    def end(self, weights: Sequence[Any]) -> None:
        self.counts.subtract(weights)
        if over := [weight for weight in weights if not self.counts[weight]]:
            over[0].partition(over)


def _frozen(module: nn.Module) -> list[Any]:
    return [parameter for parameter in module.parameters() if not parameter.requires_grad]
