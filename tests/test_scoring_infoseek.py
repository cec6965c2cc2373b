"""InfoSeek's questions are scored as its authors do and as the paper did."""

import copy
import json
from collections import Counter

import pytest
from hostile import TEXTS
from hypothesis import given
from hypothesis import strategies as st

from comem_lmms.scoring.extraction import extract
from comem_lmms.scoring.infoseek import Scored, aggregate, final, paper_score, question_type, score

YEAR, PLACE, CITY = ["1869", "1868", "1870"], ["Paris"], ["Seattle, WA", "Duwamps", "Seattle"]
NUMBER = [{"wikidata": 255.0, "range": [229.5, 280.5]}]


@pytest.mark.parametrize(
    ("kind", "answers", "prediction", "official", "paper"),
    [
        *[("Time", YEAR, "1869", 1, 1), ("Time", YEAR, r"\boxed{1869}", 0, 1), ("Time", YEAR, "1", 0, 1)],
        *[("Time", YEAR, "18", 0, 1), ("Time", YEAR, "18690", 0, 1), ("Time", YEAR, "1869 BC", 0, 1)],
        *[("Time", YEAR, "in 1869", 0, 1), ("Time", YEAR, "", 0, 0), ("Time", YEAR, "1871", 0, 0)],
        *[("String", PLACE, "Paris", 1, 1), ("String", PLACE, r"\boxed{Paris}", 0, 1), ("String", PLACE, "", 0, 1)],
        *[("String", PLACE, "Tunis", 0, 1), ("String", PLACE, r"\boxed{Minneapolis}", 0, 1)],
        *[("String", PLACE, "London", 0, 0), ("String", CITY, "The answer is Seattle.", 0, 1)],
        *[("String", CITY, r"\boxed{\text{Seattle}}", 0, 0), ("String", CITY, "x: Seattle", 0, 1)],
        *[("String", CITY, "the seattle", 1, 1), ("string", CITY, "Duwamps!", 1, 1)],
        *[("Numerical", NUMBER, "255", 1, 1), ("Numerical", NUMBER, "12:255", 0, 1), ("numerical", NUMBER, "", 0, 0)],
        ("Numerical", NUMBER, "1. First fact\n2. Second fact\nFinal answer: 255", 0, 1),
        ("Numerical", NUMBER, "250-280 m", 1, 1),
    ],
)
def test_examples(kind, answers, prediction, official, paper):
    assert score(prediction, answers, kind) == official
    assert paper_score(prediction, answers, kind) == paper


def test_an_extracted_answer_is_right_officially():
    output = r"Reasoning Process: a dome: old.\nFinal answer: \boxed{\text{Seattle}}"
    assert score(output, CITY, "String") == 0
    assert score(extract(output).text, CITY, "String") == 1


@pytest.mark.parametrize(
    ("answer", "answer_eval", "kind"),
    [
        (["255"], NUMBER, "Numerical"),
        (["1869"], YEAR, "Time"),
        (["1969 7 20"], ["July 20 1969"], "Time"),
        (["-44"], ["-44"], "Time"),
        (["1984", "Nineteen Eighty-Four"], ["1984"], "String"),
        (["1969年"], YEAR, "String"),
        ([], [], "String"),
    ],
)
def test_question_type(answer, answer_eval, kind):
    assert question_type(answer, answer_eval) == kind


def test_the_rule_gives_every_recorded_type(real_rows, fixtures):
    """On all rows that the paper uses: from the answers as published."""
    lines = (real_rows / "infoseek_val.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    types = (fixtures / "scoring/infoseek_val_qtype_derived.jsonl").read_text("utf-8").split("\n")
    recorded = {row["data_id"]: row["question_type"] for row in map(json.loads, filter(None, types))}
    derived = {row["data_id"]: question_type(row["answer"], row["answer_eval"]) for row in rows}
    assert derived == recorded
    assert Counter(derived.values()) == {"String": 3802, "Time": 463, "Numerical": 443}


def test_a_numerical_question_needs_a_range():
    with pytest.raises(ValueError, match="range"):
        score("1", ["1"], "Numerical")


def rows(split: str, scores: list[float], kind: str = "String") -> list[Scored]:
    return [Scored(split, kind, one) for one in scores]


def test_splits_are_combined_after_rounding():
    result = aggregate(rows("val_unseen_question", [1, 0, 0]) + rows("val_unseen_entity", [1, 1, 0], "Time"))
    assert result["unseen_question_score"] == {
        "score": 33.33, "score_time": 0.0, "score_num": 0.0, "score_string": 33.33
    }  # fmt: skip
    assert result["unseen_entity_score"]["score_time"] == 66.67
    assert result["final_score"] == round(2 / (1 / 33.33 + 1 / 66.67), 2)


def test_a_missing_split_makes_zero():
    assert aggregate(rows("val_unseen_question", [1, 1]))["final_score"] == 0.0
    assert aggregate([])["final_score"] == 0.0


@given(TEXTS, st.lists(TEXTS, max_size=3), st.sampled_from(["String", "Time"]))
def test_any_text_scores_zero_or_one(prediction, answers, kind):
    before = copy.deepcopy(answers)
    assert {score(prediction, answers, kind), paper_score(prediction, answers, kind)} <= {0.0, 1.0}
    assert {score(prediction, NUMBER, "Numerical"), paper_score(prediction, NUMBER, "Numerical")} <= {0.0, 1.0}
    assert answers == before


@given(TEXTS, st.lists(TEXTS))
def test_an_accepted_answer_is_right_officially(answer, others):
    assert score(answer, [*others, answer], "String") == 1.0


def test_the_final_score_is_a_fraction_rounded_as_the_authors_round():
    rows = [Scored("val_unseen_question", "String", one) for one in (1.0, 0.0, 0.0)]
    rows += [Scored("val_unseen_entity", "Time", one) for one in (1.0, 0.0)]
    assert final(rows).value == aggregate(rows)["final_score"] / 100 == 0.4
    assert final([list(row) for row in rows]) == final(rows)
    assert final(rows[:3]) == final([]) == (None, None)
