"""OK-VQA's soft accuracy, lmms-eval's and the paper's binary one."""

import copy
import time

import pytest
from hostile import LONG, TEXTS, repeated
from hypothesis import given
from hypothesis import strategies as st

from comem_lmms.scoring.extraction import extract
from comem_lmms.scoring.vqa import accuracy, aggregate, lmms_eval_accuracy, paper_accuracy, paper_field, paper_golds

TWIN = ["twin"] * 10
SPORT = ["racing"] * 6 + ["motocross"] * 2 + ["riding", "rallye"]


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_each_person_is_left_out_once(matches, expected):
    answers = ["dog"] * matches + [f"cat {i}" for i in range(10 - matches)]
    assert accuracy("Dog", answers) == pytest.approx(expected)


def test_answers_are_normalised():
    assert accuracy("2 dogs", ["two dogs"] * 4 + ["three dogs"] * 6) == 1.0
    assert accuracy("The dog!", ["dog"] * 5 + ["a dog"] * 5) == 1.0


@pytest.mark.parametrize("prediction", ["Twin", "twin.", "the twin"])
def test_nothing_is_normalised_where_all_agree(prediction):
    assert accuracy(" twin\n", TWIN) == 1.0
    assert accuracy(prediction, TWIN) == 0.0
    assert lmms_eval_accuracy(prediction, TWIN) == 1.0


def test_paper_wants_one_person_and_no_normalised_gold():
    field = paper_field(SPORT)
    assert (accuracy("motocross", SPORT), paper_accuracy("motocross", field)) == (pytest.approx(0.6), 1.0)
    assert paper_accuracy(r"It is \boxed{Racing}.", field) == 1.0
    assert accuracy(r"\boxed{racing}", SPORT) == 0.0
    assert accuracy(extract(r"\boxed{racing}").text, SPORT) == 1.0
    for unmatchable in ("clothes", "tennis", "scissors", "coffee", "skis", "office", "u.s.a."):
        assert accuracy(unmatchable, [unmatchable] * 10) == 1.0
        assert paper_accuracy(unmatchable, paper_field([unmatchable] * 10)) == 0.0


def test_paper_cuts_answers_at_apostrophes():
    assert paper_field(["race", "don't know"]) == "['race' \"don't know\"]"
    assert paper_golds("['race'\n \"don't know\"]") == ["race", '"don', 't know"']


def test_paper_field_has_the_golds_of_a_numpy_array():
    import numpy as np

    for answers in (SPORT, [*SPORT[:9], "rock 'n' roll"], ["a b"] * 10, ["it's", 'a "b"', "[x]", "\\", "日本", ""]):
        golds = [gold for gold in paper_golds(str(np.array(answers))) if not set(gold) & set("\"'")]
        assert [gold for gold in paper_golds(paper_field(answers)) if not set(gold) & set("\"'")] == golds


def test_percentages_by_type():
    result = aggregate([("one", 1.0), ("two", 0.3), ("two", 0.0)])
    assert result == {"overall": 43.33, "perQuestionType": {"one": 100.0, "two": 15.0}}


@given(TEXTS, st.lists(TEXTS, max_size=10))
def test_any_text_scores_a_fraction(prediction, answers):
    before = copy.deepcopy(answers)
    for score in (accuracy(prediction, answers), lmms_eval_accuracy(prediction, answers)):
        assert 0 <= score <= 1
    assert paper_accuracy(prediction, paper_field(answers)) in (0.0, 1.0)
    assert 0 <= paper_accuracy(prediction, prediction) <= 1
    assert answers == before


@given(st.lists(TEXTS, min_size=10, max_size=10), st.randoms())
def test_order_of_people_does_not_matter(answers, random):
    shuffled = random.sample(answers, 10)
    assert accuracy(answers[0], answers) == pytest.approx(accuracy(answers[0], shuffled))


@pytest.mark.parametrize("piece", LONG)
def test_long_texts_take_milliseconds(piece):
    output = repeated(piece)
    start = time.process_time()
    accuracy(output, SPORT)
    lmms_eval_accuracy(output, SPORT)
    paper_accuracy(output, paper_field(SPORT))
    assert time.process_time() - start < 1.0
