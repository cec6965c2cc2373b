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
        first_token: seconds from when a batch was begun to its first token; all of them, not a question's share.
        peak_memory: bytes that tensors took on the GPU at most; the highest of all answers.
        bank_bytes: of the memory bank on disk, the largest that answers tell of.
        told, asked: answers that tell their seconds, and all.
    """

    prompt_tokens: float | None
    memory_vectors: float | None
    output_tokens: float | None
    retrieve: float | None
    encode: float | None
    answer: float | None
    questions_per_second: float | None
    first_token: float | None
    peak_memory: float | None
    bank_bytes: float | None
    told: int
    asked: int

    @property
    def seconds(self) -> float | None:
        """Of all three parts together."""
        return None if self.answer is None else (self.retrieve or 0) + (self.encode or 0) + self.answer


class CostColumn(NamedTuple):
    """A column of the cost table.

    Attributes:
        name: what stands above it.
        field: of `Cost`.
        digits: behind the point.
        unit: what a value is divided by.
        is_optional: whether it is left out where no line tells.
    """

    name: str
    field: str
    digits: int
    unit: float = 1
    is_optional: bool = False

    def value(self, cost: Cost) -> float | None:
        """In the column's unit."""
        value = getattr(cost, self.field)
        return None if value is None else value / self.unit


COLUMNS = (
    CostColumn("prompt tokens", "prompt_tokens", 0),
    CostColumn("memory vectors", "memory_vectors", 0),
    CostColumn("output tokens", "output_tokens", 0),
    CostColumn("s retrieving", "retrieve", 3),
    CostColumn("s encoding", "encode", 3),
    CostColumn("s answering", "answer", 3),
    CostColumn("questions / s", "questions_per_second", 1),
    CostColumn("s to first token", "first_token", 3, is_optional=True),
    CostColumn("peak GPU GiB", "peak_memory", 2, 2**30, is_optional=True),
    CostColumn("bank MiB", "bank_bytes", 1, 2**20, is_optional=True),
)


def columns_for(costs: Sequence[Cost]) -> list[CostColumn]:
    """The columns of a table of these costs."""
    return [
        column for column in COLUMNS if not column.is_optional or any(column.value(cost) is not None for cost in costs)
    ]


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
        first_token=_mean_of("first_token", usages),
        peak_memory=_most("peak_memory", usages),
        bank_bytes=_most("bank_bytes", usages),
        told=len(seconds),
        asked=len(usages),
    )


def _mean_of(name: str, usages: Sequence[Mapping[str, Any]]) -> float | None:
    return _mean([usage[name] for usage in usages if usage.get(name) is not None])


def _most(name: str, usages: Sequence[Mapping[str, Any]]) -> float | None:
    return max((usage[name] for usage in usages if usage.get(name) is not None), default=None)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
