"""Model arguments: what follows ``--model_args`` in, checked dataclasses out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.prompts import LAYOUTS

T = TypeVar("T", bound="Arguments")


@dataclass(frozen=True)
class Arguments:
    """Arguments of every wrapper.

    Attributes:
        pretrained: the VLM: a Hub id, a folder, or ``micro`` for the bundled one.
        revision: of the VLM on the Hub.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: e.g. "cuda:0"; by default the process's GPU, else the CPU.
        attn_implementation: e.g. "sdpa" or "flash_attention_2".
        batch_size: questions answered (and items encoded) at a time.
        min_pixels, max_pixels: limits of an image's area, for processors that know them.
    """

    pretrained: str = "micro"
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    attn_implementation: str | None = None
    batch_size: int = 1
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):  # lmms-eval takes a name of digits for a number
            value = getattr(self, field.name)
            if "str" in str(field.type) and value is not None:
                object.__setattr__(self, field.name, str(value))
        check_integers(self, "batch_size", at_least=1)
        limits = [name for name in ("min_pixels", "max_pixels") if getattr(self, name) is not None]
        check_integers(self, *limits, at_least=1)
        if len(limits) == 2 and self.min_pixels > self.max_pixels:  # type: ignore[operator]
            raise UserError(f"min_pixels={self.min_pixels} is more than max_pixels={self.max_pixels}; exchange them")


@dataclass(frozen=True)
class KnowledgeArguments(Arguments):
    """Arguments of the wrappers that retrieve.

    Attributes:
        knowledge: folder of the knowledge base, or ``micro`` for MicroSeek's.
        top_k: items a question is given; 0 means none.
        retrieval: "clip", or the controls "oracle" (the right item first) and "wrong" (without the right item), or the
            folder of a retrieval run, with which neither the index nor its embedding model is loaded.
        clip, clip_pretrained: the open_clip model; by default the one the index was made with.
    """

    knowledge: str = "micro"
    top_k: int = 3
    retrieval: str = "clip"
    clip: str | None = None
    clip_pretrained: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integers(self, "top_k", at_least=0)


@dataclass(frozen=True)
class RagArguments(KnowledgeArguments):
    """Arguments of vanilla RAG.

    Attributes:
        layout: how items are put into words: "turns", "turn", "text" or "text_only" (prompts.py); by default as the
            reference does for the family of the VLM, and "turns" with ``base``.
    """

    layout: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout not in (None, *LAYOUTS):
            raise UserError(f"layout={self.layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")


@dataclass(frozen=True)
class MemoryArguments(KnowledgeArguments):
    """Arguments of CoMEM.

    Attributes:
        memory_encoder: folder or Hub id of a memory encoder or of a checkpoint of the reference, or ``micro``, which is
            also the default for the bundled VLM without a ``memory_bank``.
        memory_bank: folder of memories made before. Without ``memory_encoder`` it must hold all that is asked for;
            with it, what is missing is encoded and added, and a bank that is not there is made.
        compat: "reference" (the default for checkpoints in the reference's layout: its results, bugs included) or
            "clean" (the default for all others: the question through the frozen VLM alone, contiguous positions).
        reader: a text LLM of the VLM's width that answers in its place, as in the paper's Table 5.
    """

    memory_encoder: str | None = None
    memory_bank: str | None = None
    compat: str | None = None
    reader: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compat not in (None, "clean", "reference"):
            raise UserError(f"compat={self.compat!r} is unknown; choose clean or reference")

    @property
    def encoder(self) -> str | None:
        """The memory encoder, by default the bundled one for the bundled VLM."""
        return self.memory_encoder or (micro.NAME if self.pretrained == micro.NAME else None)


def parse(kind: type[T], given: Mapping[str, Any], *others: str) -> T:
    """The arguments as a dataclass; ``others`` are names of arguments that have been taken out before.

    Raises:
        UserError: one is unknown, or has a value of the wrong kind.
    """
    known = [field.name for field in fields(kind)]
    unknown = [name for name in given if name not in known]
    if unknown:
        names = ", ".join([*known, *others])
        raise UserError(f"unknown model argument {unknown[0]}={given[unknown[0]]!r}; known: {names}")
    return kind(**given)


def check_integers(arguments: Arguments, *names: str, at_least: int) -> None:
    """Raises UserError unless each argument is an integer of at least ``at_least``; "8" counts as 8."""
    for name in names:
        value = getattr(arguments, name)
        if not re.fullmatch(r"-?[0-9]+", str(value)) or int(value) < at_least:
            raise UserError(f"{name}={value!r} must be a whole number of at least {at_least}")
        object.__setattr__(arguments, name, int(value))
