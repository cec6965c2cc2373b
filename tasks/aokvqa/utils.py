"""A-OKVQA's task functions: a document and an output in, scores out, for direct answers and for choices."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from comem_lmms.tasks.common import Doc, Settings, complete, images, prompt

from comem_lmms import data
from comem_lmms.questions import chat
from comem_lmms.scoring import aokvqa
from comem_lmms.scoring.extraction import extract, is_unparsed

FROM_HUB = {"revision": data.revision("aokvqa")}  # what was prepared, else the pinned commit, else the newest
docs = complete("aokvqa", "validation")


def direct_target(doc: Doc) -> str:
    """The answer that most people gave."""
    return Counter(aokvqa.direct_answers(doc["direct_answers"])).most_common(1)[0][0]


def direct_answers(doc: Doc) -> list[str]:
    """All answers that people gave."""
    return aokvqa.direct_answers(doc["direct_answers"])


def process_direct(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """A difficult question has no official score."""
    answers = aokvqa.direct_answers(doc["direct_answers"])
    scores = {
        "paper": aokvqa.paper_score(results[0], answers),
        "unparsed": float(is_unparsed(results[0])),
    }
    if aokvqa.is_scored(doc["difficult_direct_answer"]):
        scores["official"] = aokvqa.direct_answer(extract(results[0]).text, answers)
    return scores


def choice_text(doc: Doc, lmms_eval_specific_kwargs: Settings) -> str:
    """The question with its choices, as the paper puts them."""
    question = f"{doc['question']} Choose one of the following: {', '.join(doc['choices'])}"
    return prompt(question, lmms_eval_specific_kwargs)


def choice_messages(doc: Doc, lmms_eval_specific_kwargs: Settings) -> list[dict[str, Any]]:
    """The same as a chat."""
    return chat(images(doc), choice_text(doc, lmms_eval_specific_kwargs), lmms_eval_specific_kwargs["prompt"])


def choice_target(doc: Doc) -> str:
    """The text of the right choice."""
    return doc["choices"][doc["correct_choice_idx"]]


def process_choice(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Accuracy over the choices; the paper compares with the direct answers here too."""
    picked = aokvqa.multiple_choice(extract(results[0]).text, doc["choices"], doc["correct_choice_idx"])
    return {
        "official": picked.score,
        "paper": aokvqa.paper_score(results[0], aokvqa.direct_answers(doc["direct_answers"])),
        "unparsed": float(not picked.parsed),
    }
