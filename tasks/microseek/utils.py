"""MicroSeek's task functions: a document in, image, question and scores out."""

from typing import Any

from PIL import Image

from comem_lmms.scoring.exact import exact_match


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The view of the emblem that the question is about."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, str] | None = None) -> str:
    """The question, between what the prompt settings of the task add."""
    settings = lmms_eval_specific_kwargs or {}
    return settings.get("pre_prompt", "") + doc["question"] + settings.get("post_prompt", "")


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Exact match, once over all questions and once under the name of the attribute asked for."""
    score = exact_match(results[0], doc["answer"])
    return {"exact_match": score, f"exact_match_{doc['attribute']}": score}
