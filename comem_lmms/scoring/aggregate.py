"""One number of many: scores in, percentages, harmonic and macro means out, rounded as the authors' scripts round."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def mean(scores: Sequence[float]) -> float:
    """The mean, 0.0 of nothing."""
    return sum(scores) / len(scores) if scores else 0.0


def percent(scores: Sequence[float]) -> float:
    """The mean in percent, with two digits."""
    return round(100 * mean(scores), 2)


def harmonic_mean(*values: float) -> float:
    """The harmonic mean as InfoSeek's and OVEN's scripts have it: a zero counts as 1e-12."""
    return len(values) / sum(1 / (value or 1e-12) for value in values)


def grouped(scores: Iterable[tuple[Key, float]]) -> dict[Key, list[float]]:
    """The scores of each group, groups in order of appearance."""
    groups: dict[Key, list[float]] = {}
    for key, score in scores:
        groups.setdefault(key, []).append(score)
    return groups


def percent_by(scores: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    """``percent`` of each group."""
    return {key: percent(group) for key, group in grouped(scores).items()}


def macro(by_group: Mapping[Key, float]) -> float:
    """The mean over groups, each counting once whatever its size: CVQA's "Overall" in the paper."""
    return mean(list(by_group.values()))
