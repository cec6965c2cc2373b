"""What answers cost in, one line of the cost table out. Our wrappers measure it (`comem_lmms.models.usage`)."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

PARTS = ("retrieve", "encode", "answer")


class Cost(NamedTuple):
    """A question's cost on average, None where no answer tells.

    Attributes:
        prompt_tokens, memory_vectors, output_tokens: numbers.
        retrieve, encode, answer: seconds of a question's share of its batch.
        questions_per_second: of all three parts together.
        told, asked: answers that tell their seconds, and all.
    """

    prompt_tokens: float | None
    memory_vectors: float | None
    output_tokens: float | None
    retrieve: float | None
    encode: float | None
    answer: float | None
    questions_per_second: float | None
    told: int
    asked: int


def cost(usages: Sequence[Mapping[str, Any]]) -> Cost:
    """Averages over the answers that tell: one that came from a cache, or from most other models, tells nothing."""
    seconds = [usage["seconds"] for usage in usages if usage.get("seconds", {}).get("answer") is not None]
    retrieve, encode, answer = (_mean([one.get(part, 0.0) for one in seconds]) for part in PARTS)
    total = sum(part or 0 for part in (retrieve, encode, answer))
    return Cost(
        prompt_tokens=_mean_of("input_tokens", usages),
        memory_vectors=_mean_of("memory_vectors", usages),
        output_tokens=_mean_of("output_tokens", usages),
        retrieve=retrieve,
        encode=encode,
        answer=answer,
        questions_per_second=1 / total if total else None,
        told=len(seconds),
        asked=len(usages),
    )


def _mean_of(name: str, usages: Sequence[Mapping[str, Any]]) -> float | None:
    return _mean([usage[name] for usage in usages if usage.get(name) is not None])


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
