"""Numbers are combined and rounded as the original scripts do."""

import numpy as np
import pytest

from comem_lmms.scoring.aggregate import (
    Estimate,
    estimate,
    grouped,
    harmonic_estimate,
    harmonic_mean,
    macro,
    macro_estimate,
    mean,
    percent,
    percent_by,
)


def test_a_zero_counts_as_almost_nothing():
    assert harmonic_mean(20, 30) == pytest.approx(24)
    assert harmonic_mean(0, 30) == pytest.approx(2e-12)
    assert harmonic_mean(0, 0) == 1e-12


def test_percentages_have_two_digits():
    assert percent([1, 0, 0]) == 33.33
    assert percent([]) == mean([]) == 0.0


def test_groups_keep_their_order():
    scores = [("b", 1.0), ("a", 0.0), ("b", 0.0)]
    assert list(grouped(scores).items()) == [("b", [1.0, 0.0]), ("a", [0.0])]
    assert percent_by(scores) == {"b": 50.0, "a": 0.0}


def test_macro_counts_each_group_once():
    assert macro({"es": 100.0, "zh": 0.0, "ru": 50.0}) == 50.0
    assert mean([1.0] * 9 + [0.0]) != macro({"es": 1.0, "zh": 0.0})


def test_a_mean_s_error_is_lmms_eval_s():
    from lmms_eval.api.metrics import mean_stderr

    scores = [1.0, 0.0, 0.3, 0.3, 1.0]
    assert estimate(scores) == pytest.approx((mean(scores), mean_stderr(scores)))
    assert estimate([1.0]) == (1.0, None)
    assert estimate([]) == (None, None)


def test_a_harmonic_mean_s_error_is_that_of_resampling():
    """10,000 resamples of each of two samples; the delta method is an approximation."""
    random = np.random.default_rng(0)
    one, other = random.random(400) < 0.3, random.random(900) < 0.6
    resampled = []
    for _ in range(10_000):
        a, b = (random.choice(sample, len(sample)).mean() for sample in (one, other))
        resampled.append(2 * a * b / (a + b))
    ours = harmonic_estimate(estimate(one.astype(float).tolist()), estimate(other.astype(float).tolist()))
    assert ours.stderr == pytest.approx(np.std(resampled), rel=0.05)


def test_a_harmonic_mean_of_nothing_has_no_error():
    nothing, some = Estimate(0.0, 0.0), Estimate(0.5, 0.1)
    assert harmonic_estimate(nothing, nothing).stderr == 0
    assert harmonic_estimate(nothing, some).stderr == 0
    assert harmonic_estimate(some, Estimate(None, None)) == (None, None)
    assert harmonic_estimate(some, Estimate(0.5, None)) == (0.5, None)


def test_a_macro_mean_s_error_adds_variances():
    assert macro_estimate([Estimate(0.2, 0.3), Estimate(0.6, 0.4)]) == pytest.approx((0.4, 0.25))
    assert macro_estimate([Estimate(0.2, None), Estimate(0.6, 0.4)]) == (0.4, None)
    assert macro_estimate([Estimate(None, None), Estimate(0.6, 0.4)]) == (None, None)
    assert macro_estimate([]) == (None, None)
