"""One number of many: scores in, percentages, harmonic and macro means out, rounded as the authors' scripts round.

An `Estimate` is a fraction from 0 to 1 with its standard error, which no script of the authors states.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import stdev
from typing import NamedTuple, TypeVar

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


class Estimate(NamedTuple):
    """A number and its standard error, None where there is none: no scores, or too few to tell."""

    value: float | None
    stderr: float | None


def estimate(scores: Sequence[float]) -> Estimate:
    """The mean with the sample standard deviation (divided by n - 1) over the root of n, as lmms-eval has it."""
    if not scores:
        return Estimate(None, None)
    return Estimate(mean(scores), stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None)


def harmonic_estimate(one: Estimate, other: Estimate) -> Estimate:
    """The harmonic mean of two independent estimates, its error by the delta method; nothing if either is nothing.

    h = 2ab / (a + b) changes by 2b^2 / (a + b)^2 with a, and likewise with b. Where both are 0 nothing varies.
    """
    if one.value is None or other.value is None:
        return Estimate(None, None)
    value = harmonic_mean(one.value, other.value)
    if one.stderr is None or other.stderr is None:
        return Estimate(value, None)
    total = one.value + other.value
    if not total:
        return Estimate(value, 0.0)
    by_one, by_other = 2 * (other.value / total) ** 2, 2 * (one.value / total) ** 2
    return Estimate(value, math.hypot(by_one * one.stderr, by_other * other.stderr))


def macro_estimate(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, each counting once; nothing if any is nothing."""
    values = [part.value for part in parts if part.value is not None]
    errors = [part.stderr for part in parts if part.stderr is not None]
    if not parts or len(values) < len(parts):
        return Estimate(None, None)
    return Estimate(mean(values), math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None)
