"""Options are picked out of outputs as MRAG-Bench's authors and the paper do; what cannot be parsed is told."""

import time

import pytest
from hostile import LONG, TEXTS, repeated
from hypothesis import given
from hypothesis import strategies as st

from comem_lmms.scoring.choices import Picked, aggregate, letter, number, paper_letter, paper_number, score

DOGS = {"A": "basenji", "B": "Pharaoh Hound", "C": "Ibizan Hound", "D": "Shiba Inu"}
PLACES = ("Plaza Mayor", "Plaza de España", "Retiro", "Puerta del Sol")


@pytest.mark.parametrize(
    ("output", "official", "paper"),
    [
        *[("A.", "A", "A"), ("(A)", "A", None), ("The answer is A", "A", None), ("Answer", None, "A")],
        *[("Based on the image, the answer is A", "A", "B"), ("Certainly! The answer is A", "A", "C")],
        *[("During the day it looks like basenji", "A", "D"), ("A basenji", "A", "A"), ("A or B", "B", "A")],
        *[(r"\boxed{A}", None, None), ("a", None, None), ("", None, None), ("  ", None, None), ("(A) or B", "A", None)],
        *[("(B), not (A), (B) again", "B", None), ("not a basenji but a shiba inu there", "D", None)],
        *[
            *[
                ("B or C or B", "B", "B"),
                ("it seems a real basenji", None, None),
                ("it is a real big basenji", "A", None),
            ],
            ("a shiba inu", None, None),
            ("'A'.", "A", None),
            (" D\n", "D", "D"),
            ("E", None, None),
            ("\u0410", None, None),
        ],
    ],
)
def test_letter(output, official, paper):
    assert letter(output, DOGS) == official
    assert paper_letter(output) == paper


def test_without_options_their_texts_are_not_looked_for():
    assert letter("During the day it looks like basenji") is None
    assert letter("It may be (B) or (C)") == "C"


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        *[
            ("1", 0),
            (" 2 ", 1),
            ("(3)", 2),
            ("4.", 3),
            ("2. Plaza Mayor", 1),
            ("**2**", 1),
            ("2：Retiro", 1),
            ("3)", 2),
        ],
        *[("retiro", 2), ("Puerta del Sol.", 3), ("٣", 2), ("[1]", 0), ("2 or 3", None), ("2.5", None), ("-1", None)],
        *[("0", None), ("5", None), ("12", None), ("B", None), ("Plaza", None), ("", None), ("...", None)],
        *[("9" * 5000, None), ("1 Retiro", None), ("²", None)],
    ],
)
def test_number(answer, index):
    assert number(answer, PLACES) == index


def test_a_number_is_an_option_before_it_is_a_text():
    assert number("2", ("3", "1", "2", "15")) == 1
    assert number("15", ("3", "1", "2", "15")) == 3
    assert number("4") == 3
    assert number("yes", ("Yes", "yes")) is None


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        *[(r"\boxed{1}", 1), ("1", 1), ("Final answer: 1", 0), ("Final answer:1", 1), ("最终答案：1", 0)],
        *[(r"\boxed{ 1 }", 0)],
        *[(r"\boxed{1.}", 0), (r"\boxed{\text{1}}", 0), (r"\boxed{1. Plaza Mayor}", 0), (r"\boxed{A}", 0), ("1.", 0)],
        *[(r"\boxed{1} or \boxed{2}", 1), (r"\boxed{2} or \boxed{1}", 0)],
    ],
)
def test_paper_number(output, expected):
    assert paper_number(output, 0) == expected


def test_unparsed_is_wrong_and_told():
    assert score("A", "A") == Picked("A", 1.0)
    assert score("B", "A") == Picked("B", 0.0)
    assert score(0, 0) == Picked(0, 1.0)
    assert score(0, 0).parsed
    assert score(None, "A") == Picked(None, 0.0)
    assert not score(None, "A").parsed


def test_accuracies_by_scenario():
    result = aggregate([("Angle", 1.0), ("Scope", 0.0), ("Angle", 0.0)])
    assert result == {"overall_accuracy": 33.33, "per_scenario": {"Angle": 50.0, "Scope": 0.0}}


@given(TEXTS, st.lists(TEXTS, min_size=4, max_size=4))
def test_any_text_picks_an_option_or_none(output, options):
    assert letter(output, dict(zip("ABCD", options, strict=True))) in (None, *"ABCD")
    assert letter(output) in (None, *"ABCD")
    assert paper_letter(output) in (None, *"ABCD")
    assert number(output, options) in (None, 0, 1, 2, 3)
    assert paper_number(output, 3) in (0.0, 1.0)


@given(st.sampled_from("ABCD"), st.text(alphabet=" ,.!?;:'"), st.text(alphabet=" ,.!?;:'"))
def test_a_letter_alone_is_found_between_marks(option, before, after):
    assert letter(f"({option})") == letter(f"Answer: {option}") == option
    assert letter(f"{before}({option}){after}", DOGS) == option


@pytest.mark.parametrize("piece", LONG)
def test_long_texts_take_milliseconds(piece):
    output = repeated(piece)
    start = time.process_time()
    letter(output, DOGS)
    number(output, PLACES)
    paper_number(output, 0)
    assert time.process_time() - start < 1.0
