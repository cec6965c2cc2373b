"""ViQuAE's exact match and F1, and what the paper made of them."""

import copy

import pytest
from hostile import TEXTS
from hypothesis import given
from hypothesis import strategies as st

from comem_lmms.scoring.viquae import exact_match, f1, paper_score

DYKE = ["Offa's dyke", "offa's dyke"]


@pytest.mark.parametrize(
    ("answers", "prediction", "official", "paper"),
    [
        *[(DYKE, "Offa's dyke", 1, 0), (DYKE, r"\boxed{Offa's dyke}", 0, 0), (DYKE, "the Offas dyke.", 1, 0)],
        *[(["denali"], r"\boxed{Denali}", 0, 1), (["Rome"], r"\boxed{Rome}", 0, 0), ([" rome "], "Rome", 1, 1)],
        *[(["rome"], r"\boxed{x: Rome}", 0, 1), (["rome"], r"\boxed{rome} because: it is known", 0, 0)],
        *[(["known"], r"\boxed{rome} because: it is known", 0, 1), (["", "  "], "Paris", 0, 0), ([], "", 0, 0)],
    ],
)
def test_examples(answers, prediction, official, paper):
    assert exact_match(prediction, answers) == official
    assert paper_score(prediction, answers) == paper


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the king of France", ["king of France"], 1),
        ("king", ["king of France"], 0.5),
        ("king king", ["king of"], 0.5),
        ("of Spain", ["king of France", "Spain"], 2 / 3),
        ("queen", ["king"], 0),
        ("", [""], 0),
        ("x", [], 0),
    ],
)
def test_f1(prediction, answers, expected):
    assert f1(prediction, answers) == pytest.approx(expected)


@given(TEXTS, st.lists(TEXTS, max_size=4))
def test_any_text_scores_a_fraction(prediction, answers):
    before = copy.deepcopy(answers)
    assert 0 <= f1(prediction, answers) <= 1
    assert {exact_match(prediction, answers), paper_score(prediction, answers)} <= {0.0, 1.0}
    assert exact_match(prediction, [*answers, prediction]) == 1
    assert answers == before
