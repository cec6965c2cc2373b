"""InfoSeek: a prediction, the accepted answers and the question's type in, 0.0 or 1.0 out.

The official rule is infoseek_eval.py of edchengg/infoseek_eval, the paper's the file of the same name in
WenyiWU0111/CoMEM. Both take what ``answer_eval`` holds: strings, in which spellings of dates and a year more or less
are written out already, or for numbers one dictionary whose ``range`` contains the tolerance already.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from comem_lmms.scoring.aggregate import Estimate, estimate, harmonic_estimate, harmonic_mean, percent
from comem_lmms.scoring.normalise import paper_answer, squad
from comem_lmms.scoring.quantities import Range, in_range, parse

QuestionType = Literal["String", "Time", "Numerical"]
Answers = Sequence[str | Mapping[str, Any]]

_TIME = re.compile(r"-?\d{1,4}( \d{1,2}){0,2}")


class Scored(NamedTuple):
    """One question's score with what aggregation needs to know of it."""

    data_split: str
    question_type: str
    score: float


def score(prediction: str, answer_eval: Answers, question_type: str) -> float:
    """1.0 if the prediction is an accepted answer: as text after SQuAD's normaliser, as a number within the range.

    There is no logic for dates; a year or a date is a string like any other.
    """
    if question_type.lower() == "numerical":
        return float(in_range(parse(prediction), _range(answer_eval)))
    return float(squad(prediction) in {squad(str(answer)) for answer in answer_eval})


def paper_score(prediction: str, answer_eval: Answers, question_type: str) -> float:
    r"""As the paper's scorer, which looks only behind the last colon, even into a box: ``\boxed{Ratio: 3}`` is " 3}".

    The gold answers go through the paper's normaliser too; where they become empty, an empty prediction is right.
    """
    prediction = prediction.rpartition(":")[2]
    kind = question_type.lower()
    if kind == "numerical":
        return float(in_range(parse(prediction), _range(answer_eval)))
    matches = paper_same_time if kind == "time" else paper_same_string
    return float(any(matches(prediction, str(answer)) for answer in answer_eval))


def paper_same_string(prediction: str, answer: str) -> bool:
    """Whether both are the same after the paper's extraction and normaliser."""
    return paper_answer(prediction) == paper_answer(answer)


def paper_same_time(prediction: str, answer: str) -> bool:
    """Whether one is part of the other: "1" and "18" are right for 1869, and so is 18690. Empty ones never match."""
    ours, gold = paper_answer(prediction), paper_answer(answer)
    return bool(ours and gold) and (ours in gold or gold in ours)


def question_type(answer: Sequence[str], answer_eval: Answers) -> QuestionType:
    """The type where the official file of types is absent, from the English answers: a rule of our own.

    Translated answers give other types ("1969年" is no time), so take the type from the English row.
    """
    if answer_eval and isinstance(answer_eval[0], Mapping):
        return "Numerical"
    return "Time" if answer and all(_TIME.fullmatch(one) for one in answer) else "String"


def is_unseen_question(data_split: str) -> bool:
    """Which of the two splits a row counts for: unseen questions if True, else unseen entities."""
    return data_split.endswith("unseen_question")


def final(rows: Iterable[Scored]) -> Estimate:
    """The final score of `aggregate` as a fraction, with its standard error.

    Nothing if a split has no rows, where the script has 0.0: no run over all questions can come to that.
    """
    rows = [Scored(*row) for row in rows]  # which a sample log holds as lists
    parts = [
        estimate([row.score for row in rows if is_unseen_question(row.data_split) is unseen])
        for unseen in (True, False)
    ]
    both = harmonic_estimate(*parts)
    return both if both.value is None else both._replace(value=aggregate(rows)["final_score"] / 100)


def aggregate(rows: Iterable[Scored]) -> dict[str, Any]:
    """What the official script reports, in percent: the harmonic mean of the two splits, and each split by type.

    The harmonic mean is of the rounded percentages, and 0.0 where a split has no rows. Both metrics are combined thus.
    """
    splits: dict[bool, list[Scored]] = {True: [], False: []}
    for row in rows:
        splits[is_unseen_question(row.data_split)].append(row)
    questions, entities = _split(splits[True]), _split(splits[False])
    return {
        "final_score": round(harmonic_mean(questions["score"], entities["score"]), 2),
        "unseen_question_score": questions,
        "unseen_entity_score": entities,
    }


def _split(rows: Sequence[Scored]) -> dict[str, float]:
    scores = {"score": percent([row.score for row in rows])}
    for name, kind in (("score_time", "time"), ("score_num", "numerical"), ("score_string", "string")):
        scores[name] = percent([row.score for row in rows if row.question_type.lower() == kind])
    return scores


def _range(answer_eval: Answers) -> Range:
    answer = answer_eval[0] if answer_eval else None
    if not isinstance(answer, Mapping):
        raise ValueError(f"a numerical question needs [{{'range': [low, high]}}] as its answer, not {answer_eval!r}")
    low, high = answer["range"][:2]
    return float(low), float(high)
