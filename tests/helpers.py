"""What tests call: chats, and lmms-eval in this process."""

from typing import Any


def chat(text: str, *images: object) -> list[dict]:
    """One user turn: images, then text."""
    content: list[dict] = [{"type": "image", "url": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def evaluate(model: Any, tasks: tuple[str, ...] = ("microseek",), **arguments: Any) -> dict:
    """A run of lmms-eval through its Python API."""
    from lmms_eval.evaluator import simple_evaluate

    return simple_evaluate(model=model, tasks=list(tasks), **arguments)


def answers(results: dict, task: str = "microseek") -> list[str]:
    """The answers of a run, question by question."""
    return [sample["filtered_resps"][0] for sample in sorted(results["samples"][task], key=lambda s: s["doc_id"])]


def usages(results: dict, task: str = "microseek") -> list[dict]:
    """What each answer of a run cost."""
    return [sample["token_counts"][0] for sample in sorted(results["samples"][task], key=lambda s: s["doc_id"])]
