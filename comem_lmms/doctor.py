"""Checks what the method rests on, with the user's own model and libraries: CoMEM's arguments in, findings out.

Position bugs in VLMs are silent: answers get worse and nothing fails. Each check computes one thing in two ways that
must agree.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from comem_lmms import micro
from comem_lmms.encoder import MemoryEncoder
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.loading import Parts
from comem_lmms.records import KnowledgeItem
from comem_lmms.vlm import Chat, FrozenVLM, extend

# Differences are in standard deviations of what is compared. Positions that are wrong give differences around 1.
ALLOWED = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
NEW_TOKENS = 6
TEXT = "The capital of this realm is called"


class Finding(NamedTuple):
    """Two ways to compute one thing, and how far apart they are: the root mean square of the worst row."""

    check: str
    difference: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether they agree; what is not a number does not."""
        return self.difference <= self.allowed

    def __str__(self) -> str:
        mark = "ok    " if self.holds else "FAILS "
        return f"{mark} {self.check:<66} {self.difference:8.1e} (allowed {self.allowed:.0e})"


def diagnose(arguments: MemoryArguments, device: str) -> Iterator[Finding]:
    """Findings about the VLM, and about the memory encoder where there is one, as they are made.

    Raises:
        UserError: a part is missing or does not fit.
    """
    parts = Parts(arguments, device)
    knowledge = KnowledgeBase.open(micro.resolve(micro.NAME, "knowledge"))
    items = [knowledge[row] for row in range(4)]
    vlm = parts.reader
    chats = [_chat("Which animal belongs to this realm? " * (1 + 3 * i), item) for i, item in enumerate(items[:3])]
    plain = vlm.logits(chats)
    yield from check_reader(vlm, chats)
    if parts.source is not None:
        yield from check_encoder(parts.encoder, items)
        yield _finding(vlm, "answering with the encoder at hand = answering without", vlm.logits(chats), plain)


@torch.inference_mode()
def check_reader(vlm: FrozenVLM, chats: list[Chat]) -> Iterator[Finding]:
    """The laws of the splice, of batches and of the cache."""
    plain = vlm.logits(chats)
    words = torch.tensor(vlm.processor.tokenizer(TEXT, add_special_tokens=False).input_ids, device=vlm.device)
    embedded = vlm.model.get_input_embeddings()(words)  # (n, D)
    nothing = embedded[:0]
    lengths = [len(words), 0, len(words) // 2]
    mixed = [embedded[:n] for n in lengths]
    with_mixed = vlm.logits(chats, mixed)

    yield _finding(vlm, "no memory = the plain model", vlm.logits(chats, [nothing] * 3), plain)
    yield _finding(vlm, "no memory, beside rows with memory = the plain model", with_mixed[1:2], plain[1:2])
    as_text = extend(vlm.prepare(chats), vlm.pad_id, before=[words[:n].tolist() for n in lengths])
    as_tokens = vlm.model(**as_text, logits_to_keep=1).logits[:, -1]
    yield _finding(vlm, "embeddings of a text as memory = that text", with_mixed, as_tokens)
    alone = torch.cat([vlm.logits([chat]) for chat in chats])
    yield _finding(vlm, "a batch = its rows", plain, alone)
    alone = torch.cat([vlm.logits([chat], [memory]) for chat, memory in zip(chats, mixed, strict=True)])
    yield _finding(vlm, "a batch with memories = its rows", with_mixed, alone)
    for name, memories in (("", None), (" with memories", mixed)):
        cached, whole = _decoded(vlm, chats, memories)
        yield _finding(vlm, f"decoding{name} step by step = from the whole sequence", cached, whole)


@torch.inference_mode()
def check_encoder(encoder: MemoryEncoder, items: list[KnowledgeItem]) -> Iterator[Finding]:
    """The laws of memories."""
    items = [items[0], KnowledgeItem("", items[1].title, items[1].text * 3, items[1].image), items[2]]
    together = encoder.encode(items)
    alone = torch.cat([encoder.encode([item]) for item in items])
    yield _finding(encoder.vlm, "the memory of an item = in a batch with others", together, alone)
    yield _finding(encoder.vlm, "encoding twice = encoding once", encoder.encode(items), together)


def _decoded(vlm: FrozenVLM, chats: list[Chat], memories: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """Logits of NEW_TOKENS greedy steps with and without a cache, (B, NEW_TOKENS, vocabulary) each."""
    given: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    logits = []
    for use_cache in (True, False):
        inputs = vlm.prepare(chats)
        with vlm.prefixed(inputs, memories) as inputs:
            out = vlm.model.generate(
                **inputs,
                **vlm.model_arguments({"pad_token_id": vlm.pad_id, **given}),
                use_cache=use_cache,
                output_logits=True,
                return_dict_in_generate=True,
            )
        logits.append(torch.stack(out.logits, dim=1))
    # Where near ties go another way, what follows cannot be compared.
    same = (logits[0].argmax(-1) == logits[1].argmax(-1)).cumprod(1).bool()  # (B, NEW_TOKENS)
    same = torch.cat([torch.ones_like(same[:, :1]), same[:, :-1]], dim=1)
    return logits[0][same], logits[1][same]


def _finding(vlm: FrozenVLM, check: str, one: Tensor, other: Tensor) -> Finding:
    rows = (one.float() - other.float()).flatten(1).square().mean(1).sqrt()
    apart = rows.max() / other.float().std()
    return Finding(check, apart.item(), ALLOWED[vlm.model.dtype])


def _chat(question: str, item: KnowledgeItem) -> Chat:
    content: list[dict[str, Any]] = [{"type": "image", "url": item.image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]
