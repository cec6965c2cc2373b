"""How the reference feeds its models: chats, items and memories in, what its classes would have computed out.

The numbered quirks are those of docs/fidelity.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError
from comem_lmms.images import open_image
from comem_lmms.records import KnowledgeItem
from comem_lmms.vlm import Answer, Chat, FrozenVLM

# Sides over this are squashed to a square of it by the reference's scripts; its pixel limits are these.
MAX_SIDE = 512
# It samples with temperature 0.1 and top_p 0.001, which keeps one token: greedy, with this penalty.
REPETITION_PENALTY = 1.05
MIN_PIXELS, MAX_PIXELS = 4 * 28 * 28, 16384 * 28 * 28


class ReferenceVLM(FrozenVLM):
    """A VLM that is fed as the reference feeds it: text before images, its image sizes, special tokens not defused.

    Attributes:
        squashes: whether large images become squares first, as in the reference's scripts but not in its classes.
    """

    squashes = True

    def generate(
        self, chats: Sequence[Chat], prefixes: Sequence[Tensor] | None = None, **gen_kwargs: Any
    ) -> list[Answer]:
        """As the base class does, with the reference's repetition penalty unless another is given."""
        return super().generate(chats, prefixes, **{"repetition_penalty": REPETITION_PENALTY, **gen_kwargs})

    def plain(self, text: str) -> str:
        """The text as it is: the reference lets data pose as structure (quirk 8).

        Raises:
            UserError: the text names an image that is not there, on which the reference fails (quirk 15).
        """
        for token in (self.processor.image_token, self.processor.video_token):
            if token in text:
                raise UserError(
                    f"a text contains {token}, which compat=reference cannot read; remove it or use compat=clean"
                )
        return text

    def prepare(self, chats: Sequence[Chat], answers: Sequence[str] | None = None) -> BatchFeature:
        """Model inputs of a left-padded batch, (B, L); the texts of a turn come first, then its images.

        In training the reference has the images first.
        """
        in_order = chats if answers else [[text_first(message) for message in chat] for chat in chats]
        return super().prepare(in_order, answers)

    def tokenize(
        self, texts: Sequence[str], images: Sequence[Image.Image], answers: Sequence[str] | None = None
    ) -> BatchFeature:
        """As the base class does, of images in the reference's sizes."""
        images = [open_image(image) for image in images]
        if self.squashes:
            images = [squash(image) for image in images]
        return super().tokenize(texts, [fit(image) for image in images], answers)


class ReferenceEncoder(MemoryEncoder):
    """Encodes items as the reference does: a literal padding token in a text is masked (quirk 8)."""

    def tokenize(self, items: Sequence[KnowledgeItem]) -> BatchFeature:
        """As the base class does, with the mask made from the tokens."""
        inputs = super().tokenize(items)
        inputs["attention_mask"] *= inputs["input_ids"] != self.vlm.pad_id
        return inputs


class ReferenceReader(ReferenceVLM):
    """Reads memories at the reference's positions.

    Prefill positions are rounded to the dtype of the embeddings (quirk 4), and decoding goes on ``decode_offset``
    positions behind the question instead of behind the memory (quirk 2). Both are off for questions without memory,
    which the reference cannot answer.

    Args:
        decode_offset: positions by which decoding is shifted; None for the memory's length, as it should be.
        position_dtype: what prefill positions are rounded to; by default the model's dtype.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        processor: Any,
        decode_offset: int | None = None,
        position_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(name, model, processor)
        self.decode_offset = decode_offset
        self.position_dtype = position_dtype or model.dtype

    @contextmanager
    def prefixed(self, inputs: BatchFeature, prefixes: Sequence[Tensor] | None) -> Iterator[BatchFeature]:
        """As the base class does, at the reference's positions."""
        with ExitStack() as stack:
            inputs = stack.enter_context(super().prefixed(inputs, prefixes))
            if prefixes and any(map(len, prefixes)):
                counts = torch.tensor([len(prefix) for prefix in prefixes], device=self.device)
                move = self._mover(counts, inputs["input_ids"].shape[1])
                hook = self.model.model.language_model.register_forward_pre_hook(move, with_kwargs=True)
                stack.callback(hook.remove)
            yield inputs

    def _mover(self, counts: Tensor, width: int) -> Any:
        """A hook that moves the position ids; counts (B,) of memory vectors, width of the prompt with memory."""

        def move(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            positions = kwargs["position_ids"]  # ([text,] temporal, height, width; B * beams; new)
            beams = positions.shape[1] // len(counts)
            memory = counts.repeat_interleave(beams)[:, None]  # (B * beams, 1)
            rope = positions[-3:]
            rounded = torch.where(memory > 0, rope.to(self.position_dtype).to(rope.dtype), rope)
            shift = torch.zeros_like(memory)
            if self.decode_offset is not None:
                shift = torch.where(memory > 0, self.decode_offset - memory, 0)
            start = 0 if rope.shape[-1] >= width else width  # a decoding step sees only what is new
            is_new = torch.arange(start, start + rope.shape[-1], device=rope.device) >= width
            kwargs["position_ids"] = torch.cat([positions[:-3], torch.where(is_new, rope + shift, rounded)])
            return args, kwargs

        return move


def text_first(message: dict[str, Any]) -> dict[str, Any]:
    """A turn as the reference lays it out in inference."""
    return {**message, "content": sorted(message["content"], key=lambda part: part["type"] != "text")}


class TextReader(ReferenceVLM):
    """A text LLM of the VLM's width that answers (the paper's Table 5): a VLM writes the memory and reads the question.

    The LLM gets [memory | the VLM's last hidden states of the question | the VLM's embeddings of the question], at
    plain positions; its head and its token embeddings are the VLM's.

    Args:
        llm: a causal language model.
        encoder: what made the memory.
        after_image_only: take the embeddings after the first image only, as the reference does in training.
    """

    def __init__(self, name: str, llm: Any, encoder: MemoryEncoder, after_image_only: bool = False) -> None:
        llm.lm_head = encoder.vlm.model.lm_head
        llm.set_input_embeddings(encoder.vlm.model.get_input_embeddings())
        super().__init__(name, llm, encoder.vlm.processor)
        self.encoder = encoder
        self.after_image_only = after_image_only

    def model_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The repetition penalty as a processor of its own.

        transformers (5.23) leaves out as many tokens as a row has padding, also where only new tokens are counted.
        """
        penalty = RepetitionPenaltyLogitsProcessor(float(arguments.get("repetition_penalty", REPETITION_PENALTY)))
        return {**arguments, "repetition_penalty": 1.0, "logits_processor": LogitsProcessorList([penalty])}

    @contextmanager
    def prefixed(self, inputs: BatchFeature, prefixes: Sequence[Tensor] | None) -> Iterator[BatchFeature]:
        """What the LLM reads, as embeddings, left-padded."""
        hidden, embeddings = self.encoder.read(inputs)  # (B, L, D) each
        lengths = inputs["attention_mask"].sum(1).tolist()
        rows = []
        for i, length in enumerate(lengths):
            start = inputs["attention_mask"].shape[1] - length
            raw = embeddings[i, start:]
            if self.after_image_only:
                ids = inputs["input_ids"][i, start:].tolist()
                raw = raw[ids.index(self.encoder.vlm.config.vision_end_token_id) + 1 :]
            memory = prefixes[i : i + 1] if prefixes else []
            rows.append(torch.cat([*memory, hidden[i, start:], raw]).to(self.model.dtype))
        yield padded(rows)


def padded(rows: Sequence[Tensor]) -> BatchFeature:
    """Embeddings of different lengths, (L_i, D), as the input of a language model, left-padded."""
    masks = [row.new_ones(len(row)) for row in rows]
    embeddings, mask = (pad_sequence(list(part), batch_first=True, padding_side="left") for part in (rows, masks))
    return BatchFeature({"inputs_embeds": embeddings, "attention_mask": mask.long()})


def squash(image: Image.Image, side: int = MAX_SIDE) -> Image.Image:
    """An image with a side over ``side`` as a square of it, its ratio lost; others as they are."""
    return image.resize((side, side), Image.Resampling.LANCZOS) if max(image.size) > side else image


def fit(image: Image.Image) -> Image.Image:
    """An image with sides that are multiples of 28, bicubic, as qwen_vl_utils makes it.

    The limits of 16 to 64 tokens that the reference's scripts name have no effect there (quirk 1), so none here.
    """
    height, width = smart_resize(image.height, image.width, 28, MIN_PIXELS, MAX_PIXELS)
    return image.resize((width, height))  # PIL's default: bicubic
