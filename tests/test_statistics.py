"""The report's statistics equal those of scipy and statsmodels, and its intervals hold what they promise."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from comem_lmms.report import statistics as ours
from comem_lmms.report.statistics import Sample
from comem_lmms.scoring.aggregate import estimate, harmonic_estimate, macro_estimate

SOFT = np.array([0, 0.3, 0.6, 0.9, 1])


def pair(random, n, lift=0.1, values=(0.0, 1.0)):
    """Two methods' scores on the same questions; the first is better by about ``lift``."""
    easy = random.random(n)
    one = (random.random(n) < easy + lift).astype(float)
    other = (random.random(n) < easy).astype(float)
    if len(values) > 2:
        one, other = one * random.choice(values, n), other * random.choice(values, n)
    return one, other


@pytest.mark.parametrize("seed", range(8))
def test_mcnemar_is_that_of_statsmodels(seed):
    random = np.random.default_rng(seed)
    one, other = pair(random, int(random.integers(5, 3000)), random.uniform(-0.1, 0.1))
    table = [[np.sum((one == a) & (other == b)) for b in (1, 0)] for a in (1, 0)]
    assert ours.mcnemar(Sample([one]), Sample([other])) == pytest.approx(
        mcnemar_of_statsmodels(table).pvalue, abs=1e-12
    )
    assert ours.compare(Sample([one]), Sample([other])).p == ours.mcnemar(Sample([one]), Sample([other]))


def test_mcnemar_of_equal_answers_is_one():
    one = np.array([0.0, 1.0, 1.0])
    assert ours.mcnemar(Sample([one]), Sample([one])) == 1.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [9, 400])
def test_permutation_is_that_of_scipy(seed, n):
    random = np.random.default_rng(seed)
    one, other = pair(random, n, 0.03, SOFT)
    there = stats.permutation_test(
        (one, other), lambda a, b, axis: a.mean(axis) - b.mean(axis), permutation_type="samples", vectorized=True,
        n_resamples=20_000, rng=random,
    )  # fmt: skip
    tolerance = 1e-12 if n == 9 else 0.02  # all permutations, or as many at random on both sides
    assert ours.compare(Sample([one]), Sample([other])).p == pytest.approx(there.pvalue, abs=tolerance)


def test_permutation_of_a_harmonic_mean_is_that_of_scipy():
    random = np.random.default_rng(0)
    ones, others = zip(*(pair(random, n, 0.08) for n in (200, 300)), strict=True)

    def statistic(*groups, axis):
        a, b, c, d = (group.mean(axis) for group in groups)
        return 2 * a * b / (a + b) - 2 * c * d / (c + d)

    # scipy exchanges within a question only where all arguments have the same length, so it is done by hand here.
    drawn = []
    for _ in range(5000):
        swaps = [random.random(len(one)) < 0.5 for one in ones]
        a = [np.where(s, x, y) for s, x, y in zip(swaps, ones, others, strict=True)]
        b = [np.where(s, y, x) for s, x, y in zip(swaps, ones, others, strict=True)]
        drawn.append(abs(statistic(*a, *b, axis=-1)))
    p = np.mean(np.array(drawn) >= abs(statistic(*ones, *others, axis=-1)))
    assert 0.001 < p < 0.9
    assert ours.compare(Sample(ones, ours.harmonic), Sample(others, ours.harmonic)).p == pytest.approx(p, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_that_of_statsmodels(seed):
    random = np.random.default_rng(seed)
    p_values = random.random(int(random.integers(1, 12))) ** 3
    assert ours.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert ours.holm([]) == []


def test_the_interval_of_a_mean_is_close_to_that_of_scipy_s_t_test():
    one, other = pair(np.random.default_rng(1), 2000, 0.05, SOFT)
    there = stats.ttest_rel(one, other).confidence_interval(0.95)
    found = ours.compare(Sample([one]), Sample([other]))
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert (found.low, found.high) == pytest.approx((there.low, there.high), abs=0.001)


def test_the_interval_of_zeros_and_ones_is_bonett_and_price_s():
    one, other = np.repeat([1.0, 1.0, 0.0, 0.0], [20, 9, 3, 18]), np.repeat([1.0, 0.0, 1.0, 0.0], [20, 9, 3, 18])
    more, less = 10 / 52, 4 / 52
    reach = 1.959964 * ((more + less - (more - less) ** 2) / 52) ** 0.5
    found = ours.compare(Sample([one]), Sample([other]))
    assert (found.low, found.high) == pytest.approx((more - less - reach, more - less + reach))


def coverage(samples, true, runs=1500):
    """How often the 95 % interval of fresh samples holds the true difference."""
    random = np.random.default_rng(0)
    found = (ours.compare(*samples(random)) for _ in range(runs))
    return np.mean([one.low <= true <= one.high for one in found])


@pytest.fixture
def few_permutations(monkeypatch):
    monkeypatch.setattr(ours, "PERMUTATIONS", 10)


# One method's chance and the other's, given a question's difficulty; the mean over difficulties is known.
@pytest.mark.parametrize(("n", "lift"), [(30, 0.0), (30, 0.3), (100, 0.02), (1000, 0.1)])
def test_intervals_of_zeros_and_ones_hold_95_percent(n, lift):
    def samples(random):
        easy = random.random(n) * 0.6
        return [Sample([(random.random(n) < easy + more).astype(float)]) for more in (lift, 0)]

    assert 0.94 <= coverage(samples, lift) <= 0.985


def test_intervals_where_next_to_nothing_differs_hold_95_percent():
    def samples(random):
        one = (random.random(60) < 0.5).astype(float)
        return [Sample([np.where(random.random(60) < 0.01, 1 - one, one)]), Sample([one])]

    assert coverage(samples, 0) >= 0.95


@pytest.mark.parametrize("n", [40, 300])
def test_intervals_of_soft_scores_hold_95_percent(n, few_permutations):
    def samples(random):
        shared = random.random(n) < 0.5
        return [
            Sample([np.where(shared, 0.6, random.choice(SOFT, n, p=p))]) for p in ([0.1, 0.1, 0.1, 0.2, 0.5], [0.2] * 5)
        ]

    assert 0.935 <= coverage(samples, 0.5 * (0.77 - 0.56)) <= 0.98


def test_intervals_of_harmonic_means_and_averages_hold_95_percent(few_permutations):
    chances, sizes = ([(0.5, 0.3), (0.4, 0.4)], [(0.4, 0.2), (0.4, 0.3)]), ((80, 200), (100, 60))

    def sample(random, chance, easy):
        tasks = [
            Sample([(e < p).astype(float) for p, e in zip(ps, es, strict=True)], ours.harmonic)
            for ps, es in zip(chance, easy, strict=True)
        ]
        return ours.average(tasks)

    def samples(random):
        easy = [[random.random(n) for n in ns] for ns in sizes]
        # Half of a question's luck is the same for both methods.
        other = [[np.where(random.random(len(e)) < 0.5, e, random.random(len(e))) for e in es] for es in easy]
        return sample(random, chances[0], easy), sample(random, chances[1], other)

    one, two = (np.mean([2 * a * b / (a + b) for a, b in chance]) for chance in chances)
    assert 0.935 <= coverage(samples, one - two, 800) <= 0.98


def test_standard_errors_are_those_of_the_tasks():
    random = np.random.default_rng(2)
    parts = [random.choice(SOFT, n) for n in (30, 50)]
    both = harmonic_estimate(*(estimate(part.tolist()) for part in parts))
    assert (Sample(parts, ours.harmonic).value, Sample(parts, ours.harmonic).stderr) == pytest.approx(tuple(both))
    both = macro_estimate([estimate(part.tolist()) for part in parts])
    assert (Sample(parts, ours.macro).value, Sample(parts, ours.macro).stderr) == pytest.approx(tuple(both))
    whole = ours.average([Sample([part]) for part in parts])
    assert (whole.value, whole.stderr) == pytest.approx(tuple(both))
    assert Sample([parts[0]]).stderr == pytest.approx(stats.sem(parts[0]))
    assert Sample([parts[0][:1]]).stderr is None


def test_where_nothing_is_right_nothing_varies():
    nothing = Sample([np.zeros(10), np.zeros(20)], ours.harmonic)
    assert (nothing.value, nothing.stderr) == (0.0, 0.0)
    found = ours.compare(nothing, nothing)
    assert (found.value, found.p) == (0.0, 1.0)
    assert found.low < 0 < found.high


def test_oven_s_result_is_made_of_four_accuracies():
    means = np.array([0.5, 0.25, 0.2, 0.4])
    parts = 2 * 0.5 * 0.25 / 0.75, 2 * 0.2 * 0.4 / 0.6
    assert ours.harmonic_of_two(means) == pytest.approx(2 * parts[0] * parts[1] / sum(parts))
