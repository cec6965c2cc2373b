"""Numbers are combined and rounded as the original scripts do."""

import pytest

from comem_lmms.scoring.aggregate import grouped, harmonic_mean, macro, mean, percent, percent_by


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
