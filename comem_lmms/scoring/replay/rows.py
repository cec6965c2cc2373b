"""Rows with a prediction and the score that an original scorer gave it: rows in, one group a scorer out."""

from collections.abc import Callable, Iterator
from typing import Any

from comem_lmms.scoring import aokvqa, choices, infoseek, viquae, vqa
from comem_lmms.scoring.replay.recorded import Compared, Group, Row, by, name

Scorer = Callable[[Row], Any]


def compare_rows(file: str, rows: list[Row]) -> Iterator[Group]:
    """One of the files of `ROWS`."""
    scorers = ROWS[file]
    for scorer, group in by("scorer", rows).items():
        if scorer not in scorers:
            yield Group(file, scorer, [Compared(name(row), row.get("score"), "unknown scorer") for row in group])
        else:
            yield Group(file, scorer, [_row(row, scorers[scorer]) for row in group])


def _row(row: Row, score: Scorer) -> Compared:
    expected = {"score": row["score"], "f1": row["f1"]} if "f1" in row else row["score"]
    return Compared(name(row), expected, score(row))


def by_type(score: Callable[..., float]) -> Scorer:
    """A scorer of InfoSeek's rows."""
    return lambda row: score(row["prediction"], row["answer_eval"], row["question_type"])


def _letter(pick: Callable[[Row], str | None]) -> Scorer:
    """None where nothing was parsed: there the original asks a language model, or crashes."""

    def score(row: Row) -> float | None:
        picked = choices.score(pick(row), row["gt_choice"])
        return picked.score if picked.parsed else None

    return score


INFOSEEK: dict[str, Scorer] = {"official": by_type(infoseek.score), "reference": by_type(infoseek.paper_score)}
ROWS: dict[str, dict[str, Scorer]] = {
    "infoseek.jsonl": INFOSEEK,
    "infoseek_multilingual.jsonl": INFOSEEK,
    "ok_vqa.jsonl": {
        "official": lambda row: vqa.accuracy(row["prediction"], row["answers"]),
        "lmms_eval_0.7.3": lambda row: vqa.lmms_eval_accuracy(row["prediction"], row["answers"]),
        "reference": lambda row: vqa.paper_accuracy(row["prediction"], row["answer_field"]),
    },
    "a_okvqa.jsonl": {
        "official_direct_answer": lambda row: aokvqa.direct_answer(row["prediction"], row["direct_answers"]),
        "official_multiple_choice": lambda row: (
            aokvqa.multiple_choice(row["prediction"], row["choices"], row["correct_choice_idx"]).score
        ),
        "reference": lambda row: (
            aokvqa.paper_score(row["prediction"], aokvqa.direct_answers(row["answer_field"]))
        ),
    },
    "viquae.jsonl": {
        "official": lambda row: {
            "score": viquae.exact_match(row["prediction"], row["answers"]),
            "f1": viquae.f1(row["prediction"], row["answers"]),
        },
        "reference": lambda row: viquae.paper_score(row["prediction"], row["answers"]),
    },
    "mrag_bench.jsonl": {
        "official": _letter(lambda row: choices.letter(row["prediction"])),
        "official_fixed_index2ans": _letter(lambda row: choices.letter(row["prediction"], row["choices"])),
        "reference": _letter(lambda row: choices.paper_letter(row["prediction"])),
    },
    "cvqa.jsonl": {
        "reference": lambda row: choices.paper_number(row["prediction"], row["label"]),
        "official_definition_not_run_code": lambda row: choices.score(row["prediction_index"], row["label"]).score,
    },
}  # fmt: skip
