"""One step of learning: batches in, gradients of the memory encoder out.

The loss is the frozen VLM's on the answers. It is differentiated in two parts that meet in the memories: through the
reader, with the adapter off, and from there through the encoder, with the adapter on. So one copy of the weights serves
both, activations that are computed again are computed by the right one of the two, and nothing of the reader can learn.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from comem_lmms.training.batches import Batch, prefixes
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BatchFeature
from transformers.modeling_layers import GradientCheckpointingLayer

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.vlm import Chat, FrozenVLM


class Compressor(nn.Module):
    """A memory encoder as a module that accelerate takes, of what learns."""

    def __init__(self, encoder: MemoryEncoder) -> None:
        super().__init__()
        # What is frozen is hidden: DDP would send it from one process to the others, and refuses what FSDP2 has cut up.
        self.learning = nn.ParameterList(encoder.parameters())
        self.encoder = encoder

    def forward(self, items: BatchFeature, question: BatchFeature | None = None) -> tuple[Tensor, ...]:
        """Memories of tokenized items, (n, n_vectors, D); of questions, if given, what `MemoryEncoder.read` gives."""
        memories = self.encoder.compress(items)
        return (memories,) if question is None else (memories, *self.encoder.read(question))


class Learner:
    """What learns, what it learns from, and how.

    Args:
        compressor: of the encoder, as accelerate prepared it.
        reader: the frozen VLM that answers.
    """

    def __init__(
        self, accelerator: Accelerator, compressor: nn.Module, encoder: MemoryEncoder, reader: FrozenVLM
    ) -> None:
        self.accelerator, self.compressor, self.encoder, self.reader = accelerator, compressor, encoder, reader

    def accumulate(self, batch: Batch, samples: int) -> "Learnt":
        """Adds the gradients of a batch to those of its step.

        The loss of a step is the mean over its samples of the mean over an answer's tokens, as the reference's at batch
        size 1 is, so it does not matter what is computed together.

        Args:
            samples: of the step, over all batches and processes.
        """
        # accelerate takes the mean over batches and processes, which may be of different size.
        scale = self.accelerator.gradient_accumulation_steps * self.accelerator.num_processes / samples
        with self.accelerator.accumulate(self.compressor):
            made = self.encode(batch)
            read = [tensor.detach().requires_grad_() for tensor in made]
            losses = self.losses(batch, *read)
            gradients = torch.autograd.grad(scale * losses.sum(), read, allow_unused=True, materialize_grads=True)
            with self.encoder.adapter_on():
                self.accelerator.backward(sum((m * g).sum() for m, g in zip(made, gradients, strict=True)))
        return Learnt(losses.detach(), read[0].detach())

    def encode(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the encoder makes for the reader: the memories of the items, (n, n_vectors, D)."""
        return self.compressor(batch.items)

    def losses(self, batch: Batch, memories: Tensor) -> Tensor:
        """Of each sample, (B,)."""
        losses = self.reader.answer_losses(batch.question, batch.is_answer, prefixes(memories, batch))
        return losses[: len(batch.places)]

    @torch.no_grad()
    def measure(self, batch: Batch) -> Tensor:
        """The losses (B,) of a batch in use: without dropout."""
        self.encoder.train(False)
        losses = self.losses(batch, *self.encode(batch))
        self.encoder.train(True)
        return losses

    @torch.no_grad()
    def answer(self, batch: Batch, chat: Chat, tokens: int) -> str:
        """What the reader answers to a question, greedily, behind the memories of a batch of that sample alone."""
        self.encoder.train(False)
        layers = [m for vlm in (self.reader, self.encoder.vlm) for m in _layers(vlm) if m.training]
        for layer in layers:  # in training mode some versions of transformers take the cache from them
            layer.training = False
        memories, *_ = self.encode(batch)
        (answer,) = self.in_use.generate([chat], prefixes(memories, batch)[:1], max_new_tokens=tokens)
        for layer in layers:
            layer.training = True
        self.encoder.train(True)
        return answer.text

    @property
    def in_use(self) -> FrozenVLM:
        """What answers, as it is used."""
        return self.reader


class Learnt(NamedTuple):
    """What a batch gave: the losses (B,) of its samples, the memories (n, n_vectors, D) of its items."""

    losses: Tensor
    memories: Tensor


def checkpoint_activations(*vlms: FrozenVLM) -> None:
    """Has the layers of models compute their activations again in the backward pass instead of keeping them.

    transformers ties that to training mode; the layers alone are put into it, what is inside them stays as in use. The
    vision tower is computed again as a whole as well, so what its layers read is not kept while the language model
    learns.
    """
    for vlm in dict.fromkeys(vlms):
        core = vlm.model.model
        if tower := getattr(core, "get_image_features", None):  # a text LLM has none
            core.get_image_features = _computed_again(tower)
        # Named so since transformers 5.24.
        enable: Any = getattr(vlm.model, "activation_checkpointing_enable", None)
        enable = enable or vlm.model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        for layer in _layers(vlm):
            layer.training = True


def _computed_again(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # transformers' ``generate`` looks at its arguments
    def call(*args: Any, **kwargs: Any) -> Any:
        def positional(*values: Any) -> Any:
            return function(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

        # By their place: the random numbers of dropout are kept for the devices of such arguments alone.
        return checkpoint(positional, *args, *kwargs.values(), use_reentrant=False)

    return call


def _layers(vlm: FrozenVLM) -> list[nn.Module]:
    """Those whose activations can be computed again."""
    return [module for module in vlm.model.modules() if isinstance(module, GradientCheckpointingLayer)]


def leave_casting_to_autocast(encoder: MemoryEncoder) -> None:
    """Keeps the adapter from copying what it reads to its own float32, of which autocast makes bfloat16 again."""
    for module in encoder.vlm.model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def parameter_groups(encoder: MemoryEncoder, weight_decay: float) -> list[dict[str, Any]]:
    """What learns, for an optimizer: biases and norms do not decay (as in the reference)."""
    norms = {
        id(p) for m in encoder.resampler.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters(recurse=False)
    }
    biases = {id(p) for name, p in encoder.resampler.named_parameters() if name.endswith("bias")}
    kept = norms | biases
    return [
        {"params": [p for p in encoder.parameters() if id(p) not in kept], "weight_decay": weight_decay},
        {"params": [p for p in encoder.parameters() if id(p) in kept], "weight_decay": 0.0},
    ]
