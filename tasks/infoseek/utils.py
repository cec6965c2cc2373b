"""InfoSeek's task functions, in English and in five translations: a document and an output in, scores out."""

from collections.abc import Sequence
from typing import Any

from comem_lmms.tasks.common import Doc, combined, complete, mean, to_combine, where

from comem_lmms.scoring import infoseek
from comem_lmms.scoring.extraction import extract, is_unparsed

PARTS = ("unseen_question", "unseen_entity")
METRICS = [
    *combined("official", infoseek.final),
    *(entry for part in PARTS for entry in mean(f"official_{part}")),
    *combined("paper", infoseek.final),
    *(entry for part in PARTS for entry in mean(f"paper_{part}")),
    *mean("unparsed", higher_is_better=False),
]
TRANSLATED_METRICS = [
    *METRICS,
    *(
        entry
        for metric in ("official_translated", "paper_translated")
        for entry in (*combined(metric, infoseek.final), *mean(f"{metric}_{PARTS[0]}"), *mean(f"{metric}_{PARTS[1]}"))
    ),
]


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Both metrics as the harmonic mean of the two splits, and by split."""
    return {**_by_split(doc, results[0], doc["answer_eval"]), "unparsed": float(is_unparsed(results[0]))}


def process_translated(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """As `process_results`, which goes by the English answers, and the same by the translated ones."""
    translated = _by_split(doc, results[0], doc["answer_eval_translated"], "_translated")
    return {**process_results(doc, results), **translated}


def either_answers(doc: Doc) -> list[str]:
    """The English answers and the translated ones, by which retrieval is measured: items are in many languages."""
    return [*doc["answer_eval"], *doc["answer_eval_translated"]]


def process_split(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Both metrics where all documents are of one split."""
    scores = _scores(doc, results[0], doc["answer_eval"])
    return {**scores, "unparsed": float(is_unparsed(results[0]))}


def _by_split(doc: Doc, output: str, answers: Sequence[str], suffix: str = "") -> dict[str, Any]:
    split = doc["data_split"]
    part = PARTS[0] if infoseek.is_unseen_question(split) else PARTS[1]
    scores: dict[str, Any] = {}
    for metric, score in _scores(doc, output, answers).items():
        scored = infoseek.Scored(split, doc["question_type"], score)
        scores |= {**to_combine(metric + suffix, scored), f"{metric}{suffix}_{part}": score}
    return scores


def _scores(doc: Doc, output: str, answers: Sequence[str]) -> dict[str, float]:
    """By the answers of a text or a time, by the range of a number."""
    kind = doc["question_type"]
    gold = [{"range": doc["answer_range"]}] if doc["answer_range"] else answers
    return {
        "official": infoseek.score(extract(output).text, gold, kind),
        "paper": infoseek.paper_score(output, gold, kind),
    }


def _split(name: str, unseen_question: bool) -> Any:
    return complete(
        name, "validation", where("data_split", lambda one: infoseek.is_unseen_question(one) is unseen_question)
    )


all_docs = complete("infoseek", "validation")
unseen_question_docs = _split("infoseek", True)
unseen_entity_docs = _split("infoseek", False)
paper_docs = complete("infoseek_paper", "validation")
paper_unseen_question_docs = _split("infoseek_paper", True)
paper_unseen_entity_docs = _split("infoseek_paper", False)
train_docs = complete("infoseek_train", "train")
es_docs, pt_docs, zh_docs, ru_docs, bg_docs = (
    complete(f"infoseek_{language}", "validation") for language in ("es", "pt", "zh", "ru", "bg")
)
