"""The final answer is found in what models write, in linear time, and how it was found is told."""

import doctest
import re
import time

import pytest
from hostile import LONG, TEXTS, repeated
from hypothesis import example, given

from comem_lmms.scoring import choices, extraction
from comem_lmms.scoring.extraction import FINAL_ANSWER, Extracted, extract, is_unparsed, paper_extract


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (r"\boxed{Rome}", "Rome"),
        (r"so \boxed{Oslo}, no, \boxed{Rome}.", "Rome"),
        (r"$\boxed{ Rome }$", "Rome"),
        (r"\boxed {Rome}", "Rome"),
        (r"\boxed{\text{Rome}}", "Rome"),
        (r"\boxed{\textbf{Rome}, \text{Italy}}", "Rome, Italy"),
        (r"\boxed{\mathrm{\textit{Canis} lupus}}", "Canis lupus"),
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{\frac{1}{2}} m}", r"\frac{1}{2} m"),
        (r"\boxed{\boxed{Rome}}", "Rome"),
        (r"\boxed{a\}b}", r"a\}b"),
        ("\\boxed{line\nbreak}", "line\nbreak"),
        (r"\boxed{Rome} and then \boxed{Oslo", "Rome"),
        (r"\boxed{Oslo and then \boxed{Rome}", "Rome"),
        (r"}} {\boxed{Rome}", "Rome"),
        (r"\\boxed{Rome}", "Rome"),
        (r"Final answer: \boxed{Rome}. Final answer: Oslo", "Rome"),
        (r"\boxed{}", ""),
        (r"\boxed{巴黎}", "巴黎"),
    ],
)
def test_box(output, answer):
    assert extract(output) == Extracted(answer, "boxed")


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("Reasoning Process: the dome.\nFinal answer: Rome", "Rome"),
        ("Final answer: Oslo\nFinal answer: Rome \n", "Rome"),
        ("**Final Answer:** Rome", "Rome"),
        ("**Final answer**: **Rome**", "Rome"),
        ("FINAL ANSWER：Rome", "Rome"),
        ("Final answer: it is 10:30", "it is 10:30"),
        (r"Final answer: \boxed{Rome", r"\boxed{Rome"),
        ("Final answer:", ""),
        ("Final answer: Rome\n\nExplanation: it is old.", "Rome"),
        ("Final answer:\n\n**Rome**\nsince it is old", "Rome"),
        ("The final answer is Rome", "Rome"),
        ("最终答案是：巴黎", "巴黎"),
        ("最終的な答え: 2", "2"),
        ("الإجابة النهائية: 3", "3"),
        ("Respuesta final: Roma", "Roma"),
        ("Resposta final : Roma", "Roma"),
        ("推理过程: …\n最终答案：罗马", "罗马"),
        ("最终答案: 罗马", "罗马"),
        ("Окончательный ответ: Рим", "Рим"),
        ("краен отговор: Рим", "Рим"),
        ("Окончателен отговор: 2", "2"),
    ],
)
def test_final_answer(output, answer):
    assert extract(output) == Extracted(answer, "final_answer")


@pytest.mark.parametrize("output", ["Rome", " Rome\n", "Rome: a city", "The answer is Rome", r"\boxed{Rome", ""])
def test_bare(output):
    assert extract(output) == Extracted(output.strip(), "bare")
    assert not extract(output).parsed


def test_every_language_of_the_prompts_is_read(fixtures):
    prompts = (fixtures.parent / "spec" / "prompts.json").read_text("utf-8")
    for wording in FINAL_ANSWER:
        assert f"{wording}: \\\\boxed" in prompts


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (r"\boxed{Rome} \boxed{Oslo}", "Rome"),
        (r"\boxed{\text{Rome}}", r"\text{Rome"),
        (r"\boxed{a{b}c}", "a{b"),
        ("\\boxed{line\nbreak}", "\\boxed{line\nbreak}"),
        ("\\boxed{line\nbreak} \\boxed{Rome}", "Rome"),
        ("time 10:30", "30"),
        ("x：y", "x：y"),
        ("Final answer: 1", " 1"),
        (r"} \boxed{Rome}", "Rome"),
    ],
)
def test_paper(output, answer):
    assert paper_extract(output) == answer


@pytest.mark.parametrize("module", [choices, extraction])
def test_examples_in_docstrings(module):
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)


@given(TEXTS)
def test_paper_is_the_first_match_of_its_expression(output):
    found = re.search(r"\\boxed\{(.*?)\}", output)
    assert paper_extract(output) == (found[1] if found else output.split(":")[-1])


@given(TEXTS)
@example("FINAL ANSWER:\x85")
@example("Final answer: ** \x85*Rome* \x1c*")
def test_nothing_is_raised_and_answers_are_stripped(output):
    found = extract(output)
    assert found.text == found.text.strip()
    assert found.how in ("boxed", "final_answer", "bare")


@given(TEXTS)
def test_what_is_put_into_a_box_is_found(answer):
    plain = re.sub(r"[\\{}]", "", answer)
    assert extract(f"{answer} \\boxed{{\\text{{{plain}}}}}") == Extracted(plain.strip(), "boxed")


@pytest.mark.parametrize("piece", LONG)
def test_long_outputs_take_milliseconds(piece):
    """Per 100,000 characters; quadratic time would be minutes."""
    output = repeated(piece)
    start = time.process_time()
    extract(output)
    paper_extract(output)
    extract(output + "\\boxed{" * 10_000 + "}" * 10_000)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("output", "unparsed"),
    [
        ("Rome", False),
        ("It is the city of Rome, as I know", False),
        ("word " * 10, False),
        ("word " * 11, True),
        ("Rome\nItaly", True),
        ("Rome\n", False),
        ("", True),
        (" \n", True),
        ("我" * 100, False),
        ("我" * 101, True),
        (r"\boxed{}", True),
        ("Final answer: ", True),
        (r"Final answer: \boxed{Rome", True),
        ("Reasoning: it has a forum.\nIt is old.\nFinal answer: Rome", False),
        (r"A long story about a city that has a forum and is old. \boxed{Rome}", False),
    ],
)
def test_an_output_is_unparsed_without_a_mark_or_a_short_answer(output, unparsed):
    assert is_unparsed(output) is unparsed
