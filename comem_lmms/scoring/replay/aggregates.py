"""Whole evaluations: their rows and the numbers that the original scripts made of them in, one group a scorer out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from comem_lmms.scoring import aokvqa, choices, infoseek, oven, viquae, vqa
from comem_lmms.scoring.aggregate import grouped, macro, mean
from comem_lmms.scoring.replay.recorded import Compared, Group, Row, by
from comem_lmms.scoring.replay.rows import by_type

AGGREGATES = "aggregates.jsonl"


def compare_aggregates(result: Row, rows: list[Row]) -> Iterator[Group]:
    """One group a scorer, with each number that was recorded, by its path in the result."""
    recorded = {key: value for key, value in result.items() if key not in DESCRIPTIONS}
    evaluate = next((EVALUATE[name] for name in EVALUATE if result["benchmark"].startswith(name)), None)
    for scorer, expected in ({result["scorer"]: result} if "scorer" in result else recorded).items():
        known = evaluate is not None and scorer in SCORERS
        ours = evaluate(rows, scorer) if evaluate and known else "unknown scorer"
        yield Group(result["file"], scorer, list(_quantities(expected, ours)))


def _quantities(expected: Any, ours: Any, path: str = "") -> Iterator[Compared]:
    """The recorded numbers one by one.

    Where ours has ``overall``, that is the number with no name or a general one. One of another name that ours lacks
    is a mismatch.
    """
    if not isinstance(expected, Mapping) or not isinstance(ours, Mapping):
        yield Compared(path, expected, ours.get("overall") if isinstance(ours, Mapping) else ours)
        return
    for name, value in expected.items():
        here = f"{path}.{name}".lstrip(".")
        if name in ours:
            yield from _quantities(value, ours[name], here)
        elif name in OVERALL and (isinstance(value, Mapping) or "overall" in ours):
            yield from _quantities(value, ours, here)
        elif name not in DESCRIPTIONS:
            yield Compared(here, value, "no quantity known here")


DESCRIPTIONS = ("benchmark", "set", "file", "scorer", "n", "n_query", "n_entity", "note")
OVERALL = ("result", "score", "accuracy", "overall", "overall_accuracy")
SCORERS = {"official", "reference", "lmms_eval_0.7.3", "official_direct_answer", "official_multiple_choice"}


def _evaluate_infoseek(rows: list[Row], scorer: str) -> Row:
    score = by_type(infoseek.score if scorer == "official" else infoseek.paper_score)
    return infoseek.aggregate(infoseek.Scored(row["data_split"], row["question_type"], score(row)) for row in rows)


def _evaluate_oven(rows: list[Row], scorer: str) -> Row:
    part = oven.part if scorer == "official" else oven.paper_part
    parts = {name: part(map(_split_and_score, group)) for name, group in by("part", rows).items()}
    result: Row = dict.fromkeys(("query_score", "query_result", "entity_score", "entity_result"))
    for name, one in parts.items():
        if one.score is None:
            return {"error": f"KeyError: {min({'seen', 'unseen'} - one.by_split.keys())!r}"}
        result |= {f"{name}_score": round(one.score, 2), f"{name}_result": one.by_split}
    return result | {"final_score": oven.final_score(parts.get("query"), parts.get("entity"))}


def _split_and_score(row: Row) -> tuple[str, float]:
    return row["data_split"], oven.score(row["pred_entity_id"], row["entity_id"])


def _evaluate_ok_vqa(rows: list[Row], scorer: str) -> Row:
    if scorer == "lmms_eval_0.7.3":
        return {"exact_match": mean([vqa.lmms_eval_accuracy(row["prediction"], row["answers"]) for row in rows])}
    if scorer == "official":
        scores = [vqa.accuracy(row["prediction"], row["answers"]) for row in rows]
    else:
        scores = [vqa.paper_accuracy(row["prediction"], vqa.paper_field(row["answers"])) for row in rows]
    return vqa.aggregate(list(zip([row["question_type"] for row in rows], scores, strict=True)))


def _evaluate_a_okvqa(rows: list[Row], scorer: str) -> Row:
    """Where there is no prediction the official script counts a wrong one; the paper's reads what there is."""
    picked = [
        aokvqa.multiple_choice(row["prediction"] or "", row["choices"], row["correct_choice_idx"]).score
        for row in rows
        if "choices" in row
    ]
    answered = [(row, row["prediction"] or "", aokvqa.direct_answers(row["direct_answers"])) for row in rows]
    easy = [
        aokvqa.direct_answer(prediction, answers)
        for row, prediction, answers in answered
        if aokvqa.is_scored(row["difficult_direct_answer"])
    ]
    paper = [aokvqa.paper_score(text, answers) for row, text, answers in answered if row["prediction"] is not None]
    direct, choice = 100 * mean(easy), 100 * mean(picked) if picked else None
    overall = {"reference": 100 * mean(paper), "official_multiple_choice": choice}.get(scorer, direct)
    return {"overall": overall, "direct_answer": direct, "multiple_choice": choice}


def _evaluate_viquae(rows: list[Row], scorer: str) -> Row:
    """Fractions officially, percentages in the paper's script."""
    if scorer == "reference":
        return {"overall": 100 * mean([viquae.paper_score(row["prediction"], row["answers"]) for row in rows])}
    exact = mean([viquae.exact_match(row["prediction"], row["answers"]) for row in rows])
    f1 = mean([viquae.f1(row["prediction"], row["answers"]) for row in rows])
    return {"overall": exact, "exact_match": exact, "em": exact, "f1": f1}


def _evaluate_mrag_bench(rows: list[Row], scorer: str) -> Row:
    pick = choices.letter if scorer == "official" else choices.paper_letter
    result = choices.aggregate(
        [(row["scenario"], choices.score(pick(row["output"]), row["gt_choice"]).score) for row in rows]
    )
    # The file that the original writes lacks Obstruction, which it looks up as Occlusion.
    return result | {"json_written": {k: v for k, v in result["per_scenario"].items() if k != "Obstruction"}}


def _evaluate_cvqa(rows: list[Row], scorer: str) -> Row:
    scores = [(row["languaege"], choices.paper_number(row["prediction"], row["answer"])) for row in rows]
    by_language = {language: 100 * mean(group) for language, group in grouped(scores).items()}
    micro = 100 * mean([score for _, score in scores])
    lines = [f"Language: {name}, Average Exact Match Score: {by_language[name]:.2f}" for name in sorted(by_language)]
    return {
        "per_language": by_language,
        "overall_micro": micro,
        "macro_over_languages_not_printed_by_reference": macro(by_language),
        "printed": [f"Average Exact Match Score for all languages: {micro:.2f}", *lines],
    }


EVALUATE: dict[str, Callable[[list[Row], str], Row]] = {
    "infoseek": _evaluate_infoseek,
    "oven": _evaluate_oven,
    "ok_vqa": _evaluate_ok_vqa,
    "a_okvqa": _evaluate_a_okvqa,
    "viquae": _evaluate_viquae,
    "mrag_bench": _evaluate_mrag_bench,
    "cvqa": _evaluate_cvqa,
}
