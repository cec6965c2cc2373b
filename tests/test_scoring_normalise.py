"""The normalisers give what the original ones give, oddities included."""

import json
import re
import string

import pytest
from hostile import TEXTS
from hypothesis import given

from comem_lmms.scoring.normalise import (
    lmms_eval,
    paper,
    paper_answer,
    squad,
    vqa,
    vqa_digits,
    vqa_punctuation,
    vqa_strip,
)
from comem_lmms.scoring.vqa_tables import ARTICLES, CONTRACTIONS, NUMBER_WORDS, PUNCTUATION


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Beatles", "beatles"),
        ("Isle of Man", "isle of man"),
        ("  A  dog, an owl\tand the cat. ", "dog owl and cat"),
        ("Theatre", "theatre"),
        ("Levi's", "levis"),
        ("Levi’s", "levi’s"),
        ("巴黎。", "巴黎。"),
        ("US of A", "us of"),
    ],
)
def test_squad(text, normalised):
    assert squad(text) == normalised


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        *[(text, "") for text in ("Paris", "Tennis", "Ruby", "Baby", "Levi's", "Tamesis", "US of A", "This is Paris")],
        *[("An Ríocht Aontaithe", ""), ("Office", "fice"), ("Coffee", "fee"), ("clothes", "s"), ("Athens", "ns")],
        *[("Netherlands", "rlands"), ("Northern Ireland", "rn ireland"), ("Lisbon", "bon"), ("Mississippi", "sippi")],
        *[("Genghis Khan", "khan"), ("Chris Martin", "martin"), ("University of Oxford", "oxford")],
        *[("Isle of Man", "man"), ("The answer is Rome.", "rome"), ("Ursus arctos", "ursus arctos")],
    ],
)
def test_paper(text, normalised):
    assert paper(text) == normalised


@given(TEXTS)
def test_paper_is_squad_behind_the_last_of_its_words(text):
    cut = "".join(c for c in text.lower() if c not in string.punctuation)
    for word in ("is", "the", "of", "by"):
        cut = cut.split(word)[-1]
    assert paper(text) == " ".join(re.sub(r"\b(a|an|the)\b", " ", cut).split())


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (r"\boxed{Rome}", "rome"),
        (r"\boxed{\text{Rome}}", "textrome"),
        (r"\boxed{{Rome}}", "rome"),
        (r"\boxed{a{b}c}", "ab"),
        (r"\boxed{\frac{1}{2}}", "frac1"),
        (r"\boxed{Rome", "boxedrome"),
        (r"\boxed {Rome}", "boxed rome"),
        ("\\boxed{line\nbreak}", "boxedline break"),
        ("time 10:30", "30"),
        ("x：y", "x：y"),
        ("Final answer:", ""),
        (r"\boxed{}", ""),
    ],
)
def test_paper_answer(output, answer):
    assert paper_answer(output) == answer


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        *[("two dogs", "2 dogs"), ("10,000", "10000"), ("dog/cat", "dog cat"), ("rock - climbing", "rock climbing")],
        *[("eleven", "eleven"), ("dont", "don't"), ("The dog.", "dog"), ("10.5", "10.5"), ("5.", "5"), ("Im", "im")],
        *[("dog,cat", "dog cat"), ("dog's", "dog's"), ("what?", "what"), ("\n dog \t", "dog"), ("none", "0")],
        *[("1,2 a-b", "12 ab")],
    ],
)
def test_vqa(text, normalised):
    assert vqa(text) == normalised


def test_vqa_deletes_32_full_stops_and_no_more():
    assert vqa_punctuation("a." * 40) == "a" * 32 + "a." * 8


def test_a_mark_beside_a_space_is_deleted_everywhere():
    assert vqa_punctuation("a-b -c") == "ab c"
    assert vqa_punctuation("a-b c") == "a b c"


@pytest.mark.parametrize(
    ("text", "normalised"),
    [("Twin", "twin"), ("dog,cat", "dogcat"), ("dog's", "dog 's"), ("what?", "what"), ("two dogs", "2 dogs")],
)
def test_lmms_eval(text, normalised):
    assert lmms_eval(text) == normalised


@given(TEXTS)
def test_lmms_eval_is_lmms_evals(text):
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    assert lmms_eval(text) == EvalAIAnswerProcessor()(text)


@given(TEXTS)
def test_any_text_has_a_normal_form(text):
    assert squad(squad(text)) == squad(text)
    for normalised in (squad(text), paper(text), paper_answer(text), vqa(text), lmms_eval(text), vqa_digits(text)):
        assert normalised == " ".join(normalised.split())
    assert "\t" not in vqa_strip(text)


def test_tables_are_whole_and_cannot_be_changed():
    assert (len(CONTRACTIONS), len(NUMBER_WORDS), len(ARTICLES), len(PUNCTUATION)) == (120, 12, 3, 21)
    with pytest.raises(TypeError):
        CONTRACTIONS["dont"] = "do not"  # type: ignore[index]


def test_tables_are_the_recorded_ones(fixtures):
    recorded = json.loads((fixtures / "scoring/vqa_tables.json").read_text("utf-8"))
    assert recorded["official_vqa_contractions"] == CONTRACTIONS
    assert recorded["number_words"] == NUMBER_WORDS
    assert (recorded["articles"], recorded["punctuation"]) == (list(ARTICLES), list(PUNCTUATION))


def test_contractions_are_those_of_lmms_eval():
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    assert EvalAIAnswerProcessor.CONTRACTIONS == CONTRACTIONS
