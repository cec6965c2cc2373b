"""MRAG-Bench's task functions: a document and an output in, the letter picked and its score out. No judge is asked."""

from collections.abc import Sequence
from typing import Any

from comem_lmms.tasks.common import Doc, Settings, complete, images, mean, prompt
from PIL import Image

from comem_lmms import data
from comem_lmms.errors import UserError
from comem_lmms.questions import chat
from comem_lmms.scoring import choices
from comem_lmms.scoring.extraction import extract

FROM_HUB = {"revision": data.revision("mrag_bench")}  # what was prepared, else the pinned commit, else the newest
# The authors' script calls Obstruction "Occlusion"; what the data set says could not be looked at.
SCENARIOS = {
    "Angle": "angle",
    "Partial": "partial",
    "Scope": "scope",
    "Obstruction": "obstruction",
    "Occlusion": "obstruction",
    "Temporal": "temporal",
    "Deformation": "deformation",
    "Incomplete": "incomplete",
    "Biological": "biological",
    "Others": "others",
}
METRICS = [
    *mean("official"),
    *mean("paper"),
    *mean("unparsed", higher_is_better=False),
    *mean("paper_unparsed", higher_is_better=False),
    *(entry for scenario in dict.fromkeys(SCENARIOS.values()) for entry in mean(f"official_{scenario}")),
]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Settings) -> str:
    """The question with its four choices."""
    listed = "\n".join(f"{letter}: {doc[letter]}" for letter in choices.LETTERS)
    return prompt(f"{doc['question']}\n Choices:\n{listed}", lmms_eval_specific_kwargs)


def doc_to_messages(doc: Doc, lmms_eval_specific_kwargs: Settings) -> list[dict[str, Any]]:
    """The same as a chat, with the data set's own knowledge where it was not taken out of the document."""
    return chat(with_gt_images(doc), doc_to_text(doc, lmms_eval_specific_kwargs), lmms_eval_specific_kwargs["prompt"])


def with_gt_images(doc: Doc) -> list[Image.Image]:
    """The query's image and those of ``gt_images``, five or one."""
    return [*images(doc), *(image.convert("RGB") for image in doc.get("gt_images") or ())]


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Accuracy by the authors' parser, which is given the options, and by the paper's first letter.

    Where the first character is no letter of an option the paper asks GPT-4o-mini: ``paper_unparsed``, wrong here.
    """
    gold = doc["answer_choice"]
    options = {letter: doc[letter] for letter in choices.LETTERS}
    picked = choices.score(choices.letter(extract(results[0]).text, options), gold)
    paper = choices.score(choices.paper_letter(results[0]), gold)
    return {
        "official": picked.score,
        "paper": paper.score,
        "unparsed": float(not picked.parsed),
        "paper_unparsed": float(not paper.parsed),
        f"official_{SCENARIOS[doc['scenario']]}": picked.score,
    }


def docs(rows: Any) -> Any:
    """The documents without any knowledge."""
    return _without(gt_docs(rows), "gt_images")


def gt_docs(rows: Any) -> Any:
    """The documents with ``gt_images``; the images that the authors retrieved are not used."""
    return _without(complete("mrag_bench", "test", _scenarios_are_known)(rows), "retrieved_images")


def _without(rows: Any, column: str) -> Any:
    return rows.remove_columns([column] if column in rows.column_names else [])


def _scenarios_are_known(rows: Any) -> None:
    if unknown := set(rows["scenario"]) - SCENARIOS.keys():
        raise UserError(
            f"MRAG-Bench has scenarios that are not known here: {sorted(unknown)}; known: {list(SCENARIOS)}"
        )
