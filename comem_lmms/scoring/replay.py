"""Compares our scores with recorded ones of the original scorers: a folder of them in, one line a file and scorer out.

    python -m comem_lmms.scoring.replay DIR [--vocab vocab.txt]

The folder holds JSON lines: rows with a prediction and the score that an original scorer gave it, inputs and outputs
of single functions (functions.jsonl), whole evaluations (``*_aggregate*.jsonl``) and their results (aggregates.jsonl).
Ends with status 1 on any difference, on a file that is missing and on one that it does not know.
"""

import argparse
import calendar
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms.errors import UserError
from comem_lmms.linking import Entity, TitleIndex
from comem_lmms.scoring import (
    aokvqa,
    choices,
    infoseek,
    normalise,
    oven,
    quantities,
    viquae,
    vqa,
    vqa_tables,
)
from comem_lmms.scoring.aggregate import grouped, harmonic_mean, macro, mean

Row = dict[str, Any]
Scorer = Callable[[Row], Any]

DIGITS = 1e-6  # as many as recorded scores have; what single functions gave is recorded in full
CORPUS, FUNCTIONS, AGGREGATES = "oven_mini_corpus.jsonl", "functions.jsonl", "aggregates.jsonl"
TYPES, TABLES = "infoseek_val_qtype_derived.jsonl", "vqa_tables.json"
VOCABULARY = "bert-base-uncased/vocab.txt"
NOT_COMPARED = ("README.md",)
# Accepted spellings of a date that are not the dataset's own "1969 7 20".
RESPELT = re.compile(rf"\d{{1,2}} \d{{1,2}} \d{{1,4}}|.*\b({'|'.join(calendar.month_name[1:])})\b.*")


class Compared(NamedTuple):
    """One row: what was recorded and what we get, unless there is a reason not to compare them."""

    name: str
    expected: Any
    ours: Any
    exempt: str | None = None
    tolerance: float = DIGITS

    @property
    def agrees(self) -> bool:
        """Whether there is nothing to object to."""
        return self.exempt is not None or same(self.expected, self.ours, self.tolerance)

    @property
    def unparsed(self) -> bool:
        """Whether the original told no answer, and neither do we."""
        return self.exempt is None and self.expected is None and self.ours is None


class Group(NamedTuple):
    """The rows of one file and scorer."""

    file: str
    scorer: str
    rows: list[Compared]

    @property
    def wrong(self) -> list[Compared]:
        """The rows that differ."""
        return [row for row in self.rows if not row.agrees]

    @property
    def reasons(self) -> Counter[str]:
        """Why rows were not compared, and how many."""
        return Counter(row.exempt for row in self.rows if row.exempt is not None)

    def __str__(self) -> str:
        exempt = self.reasons.total()
        notes = self.reasons + Counter({"unparsed, as recorded": sum(row.unparsed for row in self.rows)})
        reasons = "; ".join(f"{n} {reason}" for reason, n in notes.items())
        return (
            f"{self.file:39} {self.scorer:44} {len(self.rows):6} {len(self.rows) - exempt:8} {len(self.wrong):10} "
            f"{exempt:6}  {reasons}"
        ).rstrip()


def replay(folder: Path, vocabulary: Path | None = None) -> Iterator[Group]:
    """Every file of the folder that is there and known; ``complaints`` names the others."""
    present = {path.name for path in folder.iterdir()}
    for file in sorted(present & set(ROWS)):
        yield from _rows(file, read(folder / file), ROWS[file])
    if FUNCTIONS in present:
        yield from _functions(read(folder / FUNCTIONS))
    if TABLES in present:
        yield _tables(json.loads((folder / TABLES).read_text("utf-8")))
    if TYPES in present:
        yield _types(folder)
    for result in results(folder):
        if result["file"] in present:
            yield from _aggregates(result, read(folder / result["file"]))
    if {LINKS, CORPUS} <= present:
        yield from _links(folder, vocabulary or find_vocabulary(folder))


def complaints(folder: Path) -> list[str]:
    """The files that are missing or that nothing here compares."""
    present = {path.name for path in folder.iterdir() if path.is_file()} - set(NOT_COMPARED)
    known = {*ROWS, LINKS, CORPUS, TYPES, TABLES, FUNCTIONS, AGGREGATES} | {row["file"] for row in results(folder)}
    missing = [f"{name} is missing" for name in sorted(known - present)]
    return missing + [f"{name} is unknown" for name in sorted(present - known)]


def results(folder: Path) -> list[Row]:
    """The results of the folder's whole evaluations."""
    path = folder / AGGREGATES
    return read(path) if path.is_file() else []


def same(expected: Any, ours: Any, tolerance: float = DIGITS) -> bool:
    """Equal up to the tolerance, within lists and dictionaries too; True is 1."""
    if isinstance(expected, Mapping) and isinstance(ours, Mapping):
        return expected.keys() == ours.keys() and all(same(expected[key], ours[key], tolerance) for key in expected)
    if isinstance(expected, list | tuple) and isinstance(ours, list | tuple):
        return len(expected) == len(ours) and all(map(partial(same, tolerance=tolerance), expected, ours))
    if isinstance(expected, int | float) and isinstance(ours, int | float):
        return math.isclose(expected, ours, rel_tol=1e-9, abs_tol=tolerance)
    return type(expected) is type(ours) and expected == ours


def read(path: Path) -> list[Row]:
    """The rows of a JSON-lines file. Lines end at line feeds alone: texts hold other line separators."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def find_vocabulary(folder: Path) -> Path:
    """The BERT vocabulary in the folder, beside it, or beside the checkout we stand in."""
    for place in (folder, folder / "..", Path("../shared/fixtures")):
        if (path := place / VOCABULARY).is_file():
            return path
    raise UserError(
        f"{VOCABULARY} is neither in {folder} nor beside it; name the vocab.txt of bert-base-uncased by --vocab"
    )


# ---- rows -----------------------------------------------------------------------------------------------------------


def _rows(file: str, rows: list[Row], scorers: Mapping[str, Scorer]) -> Iterator[Group]:
    for scorer, group in _by("scorer", rows).items():
        if scorer not in scorers:
            yield Group(file, scorer, [Compared(_name(row), row.get("score"), "unknown scorer") for row in group])
        else:
            yield Group(file, scorer, [_row(row, scorers[scorer]) for row in group])


def _row(row: Row, score: Scorer) -> Compared:
    expected = {"score": row["score"], "f1": row["f1"]} if "f1" in row else row["score"]
    return Compared(_name(row), expected, score(row))


def _infoseek(score: Callable[..., float]) -> Scorer:
    return lambda row: score(row["prediction"], row["answer_eval"], row["question_type"])


def _letter(pick: Callable[[Row], str | None]) -> Scorer:
    """None where nothing was parsed: there the original asks a language model, or crashes."""

    def score(row: Row) -> float | None:
        picked = choices.score(pick(row), row["gt_choice"])
        return picked.score if picked.parsed else None

    return score


LINKS = "oven.jsonl"
INFOSEEK: dict[str, Scorer] = {"official": _infoseek(infoseek.score), "reference": _infoseek(infoseek.paper_score)}
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


def _links(folder: Path, vocabulary: Path) -> Iterator[Group]:
    """OVEN: the text that is linked, the best titles with their scores, and whether the entity is the right one."""
    corpus = read(folder / CORPUS)
    index = TitleIndex.of((Entity(row["wikidata_id"], row["wikipedia_title"]) for row in corpus), vocabulary)
    queries = {"official": oven.link_query, "reference": oven.paper_link_query}
    for scorer, rows in _by("scorer", read(folder / LINKS)).items():
        if scorer not in queries:
            yield Group(LINKS, scorer, [Compared(_name(row), row["score"], "unknown scorer") for row in rows])
            continue
        yield Group(LINKS, scorer, [_score_of_link(row, index, queries[scorer]) for row in rows])
        yield Group(LINKS, f"{scorer}, its titles", [_link(row, index, queries[scorer]) for row in rows])


def _score_of_link(row: Row, index: TitleIndex, query: Callable[[str], str]) -> Compared:
    linked = index.link(query(row["prediction"]))
    expected = {"pred_entity_id": row["pred_entity_id"], "score": row["score"]}
    ours = {"pred_entity_id": linked and linked.id, "score": oven.score(linked and linked.id, row["entity_id"])}
    return Compared(_name(row), expected, ours, "tied at the top, broken arbitrarily" if row["top1_tie"] else None)


def _link(row: Row, index: TitleIndex, query: Callable[[str], str]) -> Compared:
    """The query and the best scores; the ids too above the last score, at which others may be tied.

    The original fills up with titles of score 0, which share nothing with the query; we have fewer.
    """
    text, scores = query(row["prediction"]), row["bm25_top5_scores"]
    linked = index.search(text, len(scores))
    ours = [one.score for one in linked] + [0.0] * (len(scores) - len(linked))
    sure = [score for score in ours if score > ours[-1] + DIGITS]
    expected = {"query": row["bm25_query"], "scores": scores, "ids": _by_score(scores, row["bm25_top5"], len(sure))}
    got = {"query": text, "scores": ours, "ids": _by_score(ours, [[one.title, one.id] for one in linked], len(sure))}
    return Compared(_name(row), expected, got)


def _by_score(scores: list[float], titles: list[list[str]], n: int) -> list[list[list[str]]]:
    """The first ``n`` titles in groups of equal score, each sorted: the original's order within them is arbitrary."""
    ranked = zip(scores[:n], titles[:n], strict=True)
    return [sorted(title for _, title in group) for _, group in groupby(ranked, lambda pair: round(pair[0], 5))]


# ---- single functions and tables ------------------------------------------------------------------------------------

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


def _functions(rows: list[Row]) -> Iterator[Group]:
    for name, group in _by("function", rows).items():
        compute = FUNCTION.get(name, lambda _: "unknown function")
        rows_ = [Compared(_name(row), row["output"], compute(row["input"]), tolerance=0.0) for row in group]
        yield Group(FUNCTIONS, name, rows_)


def _quantity(value: float | list[float]) -> float | quantities.Range:
    return (value[0], value[1]) if isinstance(value, list) else value


def _types(folder: Path) -> Group:
    """The rule for question types, as far as the accepted answers of the English rows tell."""
    file = folder / "infoseek.jsonl"
    answers = {row["data_id"]: row["answer_eval"] for row in read(file)} if file.is_file() else {}
    return Group(TYPES, "derived", [_type(row, answers.get(row["data_id"])) for row in read(folder / TYPES)])


def _type(row: Row, answer_eval: list[Any] | None) -> Compared:
    if answer_eval is None:
        return Compared(row["data_id"], row["question_type"], None, "without a row in infoseek.jsonl")
    as_given = [one for one in answer_eval if not (isinstance(one, str) and RESPELT.fullmatch(one))]
    return Compared(row["data_id"], row["question_type"], infoseek.question_type(as_given, answer_eval))


def _tables(tables: Row) -> Group:
    ours = {
        "official_vqa_contractions": dict(vqa_tables.CONTRACTIONS),
        "number_words": dict(vqa_tables.NUMBER_WORDS),
        "articles": vqa_tables.ARTICLES,
        "punctuation": vqa_tables.PUNCTUATION,
        "differences_in_lmms_eval_0.7.3": {},
    }
    return Group(TABLES, "tables", [Compared(name, table, ours.get(name)) for name, table in tables.items()])


# ---- whole evaluations ----------------------------------------------------------------------------------------------


def _aggregates(result: Row, rows: list[Row]) -> Iterator[Group]:
    """One group a scorer, with each number that was recorded, by its path in the result."""
    recorded = {key: value for key, value in result.items() if key not in DESCRIPTIONS}
    evaluate = next((EVALUATE[name] for name in EVALUATE if result["benchmark"].startswith(name)), None)
    for scorer, expected in ({result["scorer"]: result} if "scorer" in result else recorded).items():
        known = evaluate is not None and scorer in SCORERS
        ours = evaluate(rows, scorer) if evaluate and known else "unknown scorer"
        yield Group(result["file"], scorer, list(_quantities(expected, ours)))


def _quantities(expected: Any, ours: Any, path: str = "") -> Iterator[Compared]:
    """The recorded numbers one by one.

    Where ours has ``overall``, that is the number with no name or a general one, and other names are exempt.
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
            yield Compared(here, value, None, f"{name} is no quantity known here" if "overall" in ours else None)


DESCRIPTIONS = ("benchmark", "set", "file", "scorer", "n", "n_query", "n_entity", "note")
OVERALL = ("result", "score", "accuracy", "overall", "overall_accuracy")
SCORERS = {"official", "reference", "lmms_eval_0.7.3", "official_direct_answer", "official_multiple_choice"}


def _evaluate_infoseek(rows: list[Row], scorer: str) -> Row:
    score = _infoseek(infoseek.score if scorer == "official" else infoseek.paper_score)
    return infoseek.aggregate(infoseek.Scored(row["data_split"], row["question_type"], score(row)) for row in rows)


def _evaluate_oven(rows: list[Row], scorer: str) -> Row:
    part = oven.part if scorer == "official" else oven.paper_part
    parts = {name: part(map(_split_and_score, group)) for name, group in _by("part", rows).items()}
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


# ---- the program ----------------------------------------------------------------------------------------------------


def _by(field: str, rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get(field)), []).append(row)
    return groups


def _name(row: Row) -> str:
    return f"id {row.get('id')}"


def show(group: Group, limit: int) -> None:
    """The group's line, and its first differences below it."""
    print(group, flush=True)
    for row in group.wrong[:limit]:
        print(f"    {row.name}: recorded {row.expected!r}, here {row.ours!r}")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m comem_lmms.scoring.replay", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab", type=Path, help="vocab.txt of bert-base-uncased, to link OVEN's predictions")
    parser.add_argument("--show", type=int, default=3, help="how many differences to print of a file and scorer")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"{arguments.folder} is not a folder of recorded scores")
    wrong = complaints(arguments.folder)
    rows: list[Compared] = []
    print(f"{'file':39} {'scorer':44} {'rows':>6} {'compared':>8} {'mismatches':>10} {'exempt':>6}  notes")
    try:
        for group in replay(arguments.folder, arguments.vocab):
            show(group, arguments.show)
            rows += group.rows
    except UserError as error:
        wrong.append(str(error))
    total = Group("total", "", rows)
    print(total)
    sys.exit("\n".join(wrong) if wrong else int(bool(total.wrong)))


if __name__ == "__main__":
    main()
