"""A text LLM in the place of the frozen VLM (the paper's Table 5): what it reads, and how the encoder learns from it.

It gets [memory | the VLM's last hidden states of the question | the VLM's embeddings of question and answer]. The
reference shows its LLM the hidden states of the answer as well, in front of the answer, from where it can copy what it
is asked for; here, as in use, it gets those of the question alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from comem_lmms.training.batches import Batch, prefixes
from comem_lmms.training.learning import Learner
from torch import Tensor
from transformers import BatchFeature

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError
from comem_lmms.reference.loading import DECODE_OFFSET, check_reader, load_llm
from comem_lmms.reference.reading import (
    MAX_PIXELS,
    MIN_PIXELS,
    ReferenceVLM,
    TextReader,
    padded,
    text_first,
)
from comem_lmms.vlm import Chat, FrozenVLM, load_processor


def as_the_reference(vlm: FrozenVLM, reader: str, revision: str | None) -> ReferenceVLM:
    """A VLM that is fed as the reference feeds its: a text LLM's memories are used in ``compat=reference`` alone.

    Raises:
        UserError: the reference has no such VLM, or the LLM is not as wide.
    """
    if vlm.config.model_type not in DECODE_OFFSET:
        raise UserError(f"reader={reader!r} works with {', '.join(DECODE_OFFSET)} alone, not {vlm.config.model_type}")
    check_reader(reader, vlm.hidden_size)
    return ReferenceVLM(vlm.name, vlm.model, load_processor(vlm.name, MIN_PIXELS, MAX_PIXELS, revision))


class AnsweringLLM(TextReader):
    """A text LLM that reads what is in front and the embeddings that come with the question."""

    def prepare(self, chats: Sequence[Chat], answers: Sequence[str] | None = None) -> BatchFeature:
        """Model inputs of a left-padded batch, (B, L); a turn's text comes first, as in use."""
        return FrozenVLM.prepare(self, [[text_first(message) for message in chat] for chat in chats], answers)

    @contextmanager
    def prefixed(self, inputs: BatchFeature, prefixes: Sequence[Tensor] | None) -> Iterator[BatchFeature]:
        """Prefixes (n_i, D) in front of ``inputs_embeds`` (B, L, D)."""
        rows = zip(prefixes or (), inputs["inputs_embeds"], inputs["attention_mask"].bool(), strict=True)
        yield padded([torch.cat([front, row[mask]]).to(self.model.dtype) for front, row, mask in rows])


class TextLearner(Learner):
    """Learns from a text LLM: gradients also flow through what the VLM makes of the question."""

    def encode(self, batch: Batch) -> tuple[Tensor, ...]:
        """Memories (n, n_vectors, D), and hidden states and embeddings of questions and answers, (B, L, D) each."""
        return self.compressor(batch.items, batch.question)

    @property
    def in_use(self) -> FrozenVLM:
        """The LLM, which has the VLM read the question when it is to answer it."""
        return TextReader(self.reader.name, self.reader.model, self.encoder)

    def losses(self, batch: Batch, memories: Tensor, *read: Tensor) -> Tensor:
        """Of each sample, (B,)."""
        question, fronts = lay_out(batch, memories, *read)
        return self.reader.answer_losses(question, batch.is_answer, fronts)[: len(batch.places)]


def lay_out(batch: Batch, memories: Tensor, hidden: Tensor, embeddings: Tensor) -> tuple[BatchFeature, list[Tensor]]:
    """What `AnsweringLLM` reads: the questions and answers, and in front of each its memories and hidden states."""
    is_question = batch.question["attention_mask"].bool() & ~batch.is_answer
    rows = zip(prefixes(memories, batch), hidden, is_question, strict=True)
    fronts = [torch.cat([memory, row[mask]]) for memory, row, mask in rows]
    return BatchFeature({**batch.question, "inputs_embeds": embeddings}), fronts


def load(reader: str, encoder: MemoryEncoder, attention: str | None) -> AnsweringLLM:
    """The LLM, frozen."""
    return AnsweringLLM(reader, load_llm(reader, encoder, attention), encoder)
