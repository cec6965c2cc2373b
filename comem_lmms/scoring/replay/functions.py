"""Inputs and outputs of single functions, VQA's tables and InfoSeek's question types: files in, groups out."""

import calendar
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comem_lmms.scoring import infoseek, normalise, oven, quantities, vqa_tables
from comem_lmms.scoring.aggregate import harmonic_mean
from comem_lmms.scoring.replay.recorded import Compared, Group, Row, by, name, read

FUNCTIONS, TABLES, TYPES = "functions.jsonl", "vqa_tables.json", "infoseek_val_qtype_derived.jsonl"
# Accepted spellings of a date that are not the dataset's own "1969 7 20".
RESPELT = re.compile(rf"\d{{1,2}} \d{{1,2}} \d{{1,4}}|.*\b({'|'.join(calendar.month_name[1:])})\b.*")

FUNCTION: dict[str, Callable[[Any], Any]] = {
    "reference.normalize_answer": normalise.paper,
    "official.normalize_answer": normalise.squad,
    "viquae.answer_preprocess": normalise.squad,
    "reference.extract_and_normalize_boxed_answer": normalise.paper_answer,
    "reference.oven_link_query": oven.paper_link_query,
    "official.clean_str_range": quantities.spaced_minus,
    "official.process_numerical_answer": quantities.parse,
    "official.metric_numerical_range": lambda x: quantities.in_range(_quantity(x["pred"]), tuple(x["answer"])),
    "official.range_intersection_over_union": lambda x: quantities.overlap(tuple(x["x"]), tuple(x["y"])),
    "infoseek.harmonic_mean": lambda x: harmonic_mean(*x),
    "oven.harmonic_mean": lambda x: harmonic_mean(*x),
    "reference.exact_match_score": lambda x: infoseek.paper_same_string(x["prediction"], x["ground_truth"]),
    "reference.exact_match_score_time": lambda x: infoseek.paper_same_time(x["prediction"], x["ground_truth"]),
    "vqa.processPunctuation": normalise.vqa_punctuation,
    "vqa.processDigitArticle": normalise.vqa_digits,
    "vqa.punct_then_digit": lambda text: normalise.vqa_digits(normalise.vqa_punctuation(text)),
    "lmms_eval.EvalAIAnswerProcessor": normalise.lmms_eval,
}


def compare_functions(rows: list[Row]) -> Iterator[Group]:
    """Each function's outputs, to the last digit."""
    for function, group in by("function", rows).items():
        compute = FUNCTION.get(function, lambda _: "unknown function")
        rows_ = [Compared(name(row), row["output"], compute(row["input"]), tolerance=0.0) for row in group]
        yield Group(FUNCTIONS, function, rows_)


def _quantity(value: float | list[float]) -> float | quantities.Range:
    return (value[0], value[1]) if isinstance(value, list) else value


def compare_tables(tables: Row) -> Group:
    """VQA's tables, each as one row."""
    ours = {
        "official_vqa_contractions": dict(vqa_tables.CONTRACTIONS),
        "number_words": dict(vqa_tables.NUMBER_WORDS),
        "articles": vqa_tables.ARTICLES,
        "punctuation": vqa_tables.PUNCTUATION,
        "differences_in_lmms_eval_0.7.3": {},
    }
    return Group(TABLES, "tables", [Compared(key, table, ours.get(key)) for key, table in tables.items()])


def compare_types(folder: Path) -> Group:
    """The rule for question types, on all questions whose English answers are in the folder."""
    answers = {
        row["data_id"]: row["answer_eval"]
        for path in sorted(folder.glob("infoseek*.jsonl"))
        for row in read(path)
        if row.get("language") == "en"
    }
    recorded = {row["data_id"]: row["question_type"] for row in read(folder / TYPES)}
    rows = [Compared(id_, kind, _type(answers[id_])) for id_, kind in recorded.items() if id_ in answers]
    return Group(TYPES, "derived", rows, f"of {len(recorded)} types, those of questions that have an English row here")


def _type(answer_eval: list[Any]) -> infoseek.QuestionType:
    """By the accepted answers, since the folder does not hold the answers themselves."""
    as_given = [one for one in answer_eval if not (isinstance(one, str) and RESPELT.fullmatch(one))]
    return infoseek.question_type(as_given, answer_eval)
