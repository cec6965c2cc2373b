"""A-OKVQA's direct answers and choices."""

import copy

import pytest
from hostile import TEXTS
from hypothesis import given
from hypothesis import strategies as st

from comem_lmms.scoring.aokvqa import direct_answer, direct_answers, is_scored, multiple_choice, paper_score

SMOKE = ["cigarette"] * 10
CHOICES = ["toothpick", "food", "popsicle stick", "cigarette"]


@pytest.mark.parametrize(
    ("prediction", "official", "paper"),
    [
        *[("cigarette", 1, 1), ("Cigarette", 0, 1), (r"\boxed{cigarette}", 0, 1)],
        *[("The answer is cigarette", 0, 1), (r"\boxed{\text{cigarette}}", 0, 0), ("", 0, 0)],
    ],
)
def test_direct_answer(prediction, official, paper):
    assert direct_answer(prediction, SMOKE) == official
    assert paper_score(prediction, SMOKE) == paper


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (10, 1)])
def test_nobody_is_left_out(matches, expected):
    assert direct_answer("dog", ["dog"] * matches + ["cat"] * (10 - matches)) == expected


def test_direct_answers_are_kept_as_text():
    assert direct_answers(str(["it's", "a dog"])) == direct_answers(["it's", "a dog"]) == ["it's", "a dog"]


def test_difficult_questions_are_dropped_officially():
    assert is_scored(False)
    assert not is_scored(True)


@pytest.mark.parametrize("prediction", ["D", "3", "Cigarette", "cigarette ", ""])
def test_what_is_no_choice_is_unparsed(prediction):
    picked = multiple_choice(prediction, CHOICES, 3)
    assert (picked.score, picked.parsed) == (0.0, False)


def test_choices():
    assert multiple_choice("cigarette", CHOICES, 3) == ("cigarette", 1.0)
    assert multiple_choice("food", CHOICES, 3) == ("food", 0.0)
    assert multiple_choice("food", CHOICES, 3).parsed


@given(TEXTS, st.lists(TEXTS, max_size=10))
def test_any_text_scores_a_fraction(prediction, answers):
    before = copy.deepcopy(answers)
    assert 0 <= direct_answer(prediction, answers) <= 1
    assert paper_score(prediction, answers) in (0.0, 1.0)
    assert direct_answers(str(answers)) == answers == before
