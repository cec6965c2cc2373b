"""Numbers are read and compared as InfoSeek's scorer does it."""

import time

import pytest
from hostile import LONG, TEXTS, repeated
from hypothesis import given
from hypothesis import strategies as st

from comem_lmms.scoring.quantities import in_range, overlap, parse, spaced_minus


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("1,234", 1234), ("1,23", (1, 23)), ("12,34", (12, 34)), (".5", 5), ("10-20", (10, 20)), ("20-10", 20)],
        *[("10 to 20", (10, 20)), ("3.5 million", 3.5), ("twelve", (0, 0)), ("1/2", (1, 2)), ("-10 - -5", (-10, -5))],
        *[("1969-07-20", 1969), ("3 000", 3), ("1.234.567", (1.234, 567)), ("12 ± 3", 12), ("٣", 3), ("10^3", 10)],
        *[("", (0, 0)), ("5 5", (5, 5)), ("1.2e-3", 0.0012), ("+.1.5 and 7", 7), ("1e999", float("inf"))],
    ],
)
def test_parse(text, number):
    assert parse(text) == number


def test_a_minus_behind_a_digit_is_a_dash():
    assert spaced_minus("10-20, -5, a-1, 5--") == "10 - 20, -5, a-1, 5 - -"


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        *[(0.9, (0.9, 1.1), True), (1.1, (0.9, 1.1), True), (1.11, (0.9, 1.1), False), (1.0, (1.1, 0.9), False)],
        *[((0.95, 1.05), (0.9, 1.1), True), ((1.0, 1.2), (0.9, 1.1), False), ((0.0, 1.0), (0.0, 2.0), True)],
        *[((0.0, 4.0), (0.0, 2.0), True), ((0.0, 4.1), (0.0, 2.0), False), ((float("inf"),) * 2, (0.0, 1.0), False)],
    ],
)
def test_in_range(prediction, answer, right):
    assert in_range(prediction, answer) is right


def test_overlap():
    assert overlap((1.0, 1.2), (0.9, 1.1)) == pytest.approx(1 / 3)
    assert overlap((0.9, 1.1), (1.1, 0.9)) == pytest.approx(1)
    assert overlap((0, 1), (2, 3)) == 0


FLOATS = st.floats(-1e6, 1e6)


@given(FLOATS, FLOATS, FLOATS, FLOATS)
def test_overlap_is_symmetric_and_a_fraction(a, b, c, d):
    assert 0 <= overlap((a, b), (c, d)) <= 1
    assert overlap((a, b), (c, d)) == pytest.approx(overlap((c, d), (a, b)))


@given(TEXTS)
def test_any_text_is_a_number_a_range_or_nothing(text):
    number = parse(text)
    if isinstance(number, tuple):
        assert number[0] <= number[1]
    assert in_range(number, (-5.0, 5.0)) in (True, False)


@pytest.mark.parametrize("piece", LONG)
def test_long_texts_take_milliseconds(piece):
    start = time.process_time()
    in_range(parse(repeated(piece)), (1, 2))
    assert time.process_time() - start < 1.0
