"""Two methods on the same questions: scores in, the difference with its interval and p-value out.

A result need not be a mean: InfoSeek's is a harmonic mean over splits, CVQA's a mean over subsets, an average goes over
benchmarks. So a `Sample` is scores in groups and the ``statistic`` that makes one number of the groups' means; a plain
mean is the statistic of one group. All scores are fractions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # means, (..., groups) -> (...)

PERMUTATIONS = 20_000  # where there are too many to go through all
_ALL = 12  # differing questions up to which all 2 ** 12 are gone through
_STEP = 1e-6


class Difference(NamedTuple):
    """One method's result less another's, on the same questions.

    Attributes:
        value: the difference of the results as they are.
        low, high: its confidence interval.
        p: of the hypothesis that it makes no difference which of the two answers, two-sided.
    """

    value: float
    low: float
    high: float
    p: float


def mean(means: Array) -> Array:
    """The statistic of a plain mean, which has one group."""
    return means[..., 0]


def macro(means: Array) -> Array:
    """Each group counts once: CVQA's subsets."""
    return means.mean(axis=-1)


def harmonic(means: Array) -> Array:
    """Of two groups, 0 where both are 0: InfoSeek's splits, and those of a part of OVEN."""
    one, other = means[..., 0], means[..., 1]
    total = one + other
    return np.where(total == 0, 0, 2 * one * other / np.where(total == 0, 1, total))


def harmonic_of_two(means: Array) -> Array:
    """Of four groups, the harmonic mean of the first two's and the last two's: OVEN's queries and entities."""
    return harmonic(np.stack([harmonic(means[..., :2]), harmonic(means[..., 2:])], axis=-1))


@dataclass(frozen=True)
class Sample:
    """What one method scored, question by question.

    Attributes:
        groups: the scores of each group, (n,) each and not empty.
        statistic: makes the result of the groups' means.
    """

    groups: Sequence[Array]
    statistic: Statistic = mean

    @property
    def value(self) -> float:
        """The result."""
        return float(self.statistic(_means(self.groups)))

    @property
    def stderr(self) -> float | None:
        """Of the result by the delta method, groups being independent; None with a group of one question."""
        if any(len(group) < 2 for group in self.groups):
            return None
        slopes = _slopes(self.statistic, _means(self.groups))
        return math.sqrt(sum(s**2 * g.var(ddof=1) / len(g) for s, g in zip(slopes, self.groups, strict=True)))


def average(samples: Sequence[Sample]) -> Sample:
    """The unweighted mean of results on different questions, as a sample of all their groups."""
    ends = np.cumsum([len(sample.groups) for sample in samples])[:-1]

    def statistic(means: Array) -> Array:
        parts = np.split(means, ends, axis=-1)
        return sum((s.statistic(part) for s, part in zip(samples, parts, strict=True)), np.zeros(())) / len(samples)

    return Sample([group for sample in samples for group in sample.groups], statistic)


def compare(one: Sample, other: Sample, confidence: float = 0.95) -> Difference:
    """``one`` less ``other``, question by question the same in both.

    The p-value of a plain mean of scores that are 0 or 1 is McNemar's exact one, of all else that of a permutation
    test which exchanges the two methods' scores on each question. The interval is Wald's by the delta method after two
    made-up questions a group, one that only ``one`` got right and one that only ``other`` did. For a mean of 0 and 1
    that is Bonett and Price's (2012), which holds its coverage with few questions or few that differ. Scores beyond 0
    to 1 get none made up.
    """
    value = one.value - other.value
    low, high = _interval(one, other, confidence)
    return Difference(value, low, high, mcnemar(one, other) if _is_binary(one, other) else permutation(one, other))


def mcnemar(one: Sample, other: Sample) -> float:
    """The exact two-sided p-value of two plain means of 0 and 1: a sign test where only one of them is right."""
    differences = np.asarray(one.groups[0]) - np.asarray(other.groups[0])
    more, less = int((differences > 0).sum()), int((differences < 0).sum())
    count, tail, term = more + less, 0, 1
    for i in range(min(more, less) + 1):
        tail += term
        term = term * (count - i) // (i + 1)
    return min(1.0, 2 * tail / 2**count)  # int by int: no overflow


def permutation(one: Sample, other: Sample, seed: int = 0) -> float:
    """The two-sided p-value of exchanging the methods' scores on each question, all ways or ``PERMUTATIONS`` at random.

    Only the sum of the signed differences of a group matters. Equal ones are drawn together, as a binomial number, so
    thousands of questions cost no more than a few.
    """
    sums = _means([a + b for a, b in zip(one.groups, other.groups, strict=True)])
    differences = [a - b for a, b in zip(one.groups, other.groups, strict=True)]
    differing = [np.round(np.abs(d[d != 0]), 12) for d in differences]
    every = sum(map(len, differing)) <= _ALL
    draw = _all_signs if every else _random_signs
    signed = draw(differing, np.random.default_rng(seed)) / [len(d) for d in differences]  # (permutations, groups)
    drawn = np.abs(one.statistic((sums + signed) / 2) - one.statistic((sums - signed) / 2))
    extreme = int((drawn >= abs(one.value - other.value) * (1 - 1e-9) - 1e-12).sum())
    return extreme / len(drawn) if every else (extreme + 1) / (len(drawn) + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down method, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _interval(one: Sample, other: Sample, confidence: float) -> tuple[float, float]:
    bounded = all(((group >= 0) & (group <= 1)).all() for sample in (one, other) for group in sample.groups)
    ours = [np.append(group, [1.0, 0.0]) if bounded else group for group in one.groups]
    theirs = [np.append(group, [0.0, 1.0]) if bounded else group for group in other.groups]
    our_means, their_means = _means(ours), _means(theirs)
    slopes = zip(_slopes(one.statistic, our_means), _slopes(other.statistic, their_means), strict=True)
    variance = sum((s * a - t * b).var() / len(a) for (s, t), a, b in zip(slopes, ours, theirs, strict=True))
    middle = float(one.statistic(our_means) - other.statistic(their_means))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
    limit = 1.0 if bounded else math.inf
    return max(middle - reach, -limit), min(middle + reach, limit)


def _means(groups: Sequence[Array]) -> Array:
    return np.array([np.mean(group) for group in groups])


def _slopes(statistic: Statistic, means: Array) -> Array:
    """How much the result changes with each group's mean. The statistics are smooth, so differences are good enough."""
    steps = _STEP * np.eye(len(means))
    return (statistic(means + steps) - statistic(means - steps)) / (2 * _STEP)


def _is_binary(one: Sample, other: Sample) -> bool:
    if one.statistic is not mean:
        return False
    return all(np.isin(sample.groups[0], (0, 1)).all() for sample in (one, other))


def _all_signs(differing: Sequence[Array], _: np.random.Generator) -> Array:
    count = sum(map(len, differing))
    signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)  # (2 ** count, count)
    parts = np.split(signs, np.cumsum([len(d) for d in differing])[:-1], axis=1)
    return np.stack([part @ d for part, d in zip(parts, differing, strict=True)], axis=1)


def _random_signs(differing: Sequence[Array], random: np.random.Generator) -> Array:
    signed = np.zeros((PERMUTATIONS, len(differing)))
    for column, values in enumerate(differing):
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            signed[:, column] += value * (2 * random.binomial(count, 0.5, PERMUTATIONS) - count)
    return signed
