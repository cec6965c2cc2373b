"""A question and what can be had of it in, what the page reads of it out: its line in the list, all that is searched,
and all that is shown. Only texts, numbers and names of our own files; the page shows texts as texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from comem_lmms.explorer.pictures import Pictures
from comem_lmms.explorer.questions import Answer, Question
from comem_lmms.explorer.scores import language_of, logged, number
from comem_lmms.explorer.sources import NOTHING_SHOWN, Asked, Library
from comem_lmms.report.reading import usage
from comem_lmms.report.rows import METHODS
from comem_lmms.scoring.extraction import extract

LABEL, GOLD = 200, 80  # characters of a question and of its answer in the list
_UNTOLD = "The log does not tell which items it was given: the answer came from --use_cache."
_COUNTS = {"input_tokens": "prompt tokens", "memory_vectors": "memory vectors", "output_tokens": "output tokens"}


class Record(NamedTuple):
    """A question as the page has it.

    Attributes:
        row: of the list.
        words: all that is searched.
        details: all that is shown.
    """

    row: dict[str, Any]
    words: str
    details: dict[str, Any]


class Recorder:
    """Makes the records of one task's questions.

    Args:
        task: its place among the tasks.
        judges: the metrics by which answers are right or wrong, or None in their place.
        splits: by question's id.
        n_lines: how many lines there are.
    """

    def __init__(
        self,
        task: int,
        judges: Sequence[str | None],
        splits: Mapping[str, list[str]],
        n_lines: int,
        library: Library,
        pictures: Pictures,
    ) -> None:
        self._task, self._judges, self._splits, self._n_lines = task, judges, splits, n_lines
        self._library, self._pictures = library, pictures

    def record(self, question: Question, asked: Asked) -> Record:
        """The record of a question of which ``asked`` tells the rest."""
        shown = [self._pictures.add(picture) for picture in asked.pictures]
        files = [name for name, _ in shown if name]
        lacking = next((why for _, why in shown if why), asked.lacking)
        prompts = [_text(answer.sample.get("input")) for answer in question.answers]
        splits = self._splits.get(question.id) or ([asked.split] if asked.split else [])
        row = {
            "id": question.id,
            "task": self._task,
            "label": _short(asked.question or prompts[0], LABEL),
            "gold": _short(question.target, GOLD),
            "image": files[0] if files else "",
            "language": asked.language or language_of(question.task),
            "splits": splits,
            "scores": self._scores(question),
        }
        details = {
            "id": question.id,
            "question": asked.question or "",
            "prompt": prompts[0],
            "target": question.target,
            "answers": [answer for answer in asked.answers if answer != question.target],
            "images": files,
            "lacking": lacking,
            "methods": [_method(answer, prompts[0]) for answer in question.answers],
            "retrieved": self._retrieved(question),
        }
        return Record(row, "\n".join(_words(details, row)), details)

    def _scores(self, question: Question) -> list[list[float | None] | None]:
        """By line and judge."""
        scores: list[list[float | None] | None] = [None] * self._n_lines
        for answer in question.answers:
            metrics = logged(answer.run, answer.sample)
            found = [None if judge is None else number(metrics.get(judge)) for judge in self._judges]
            scores[answer.line] = [None if score is None else round(score, 4) for score in found]
        return scores

    def _retrieved(self, question: Question) -> list[dict[str, Any]]:
        """The items of all lines; what several lines were given alike is there once."""
        found: dict[str, dict[str, Any]] = {}
        for answer in question.answers:
            told = usage(answer.sample)
            if isinstance(told.get("retrieved"), list) and told["retrieved"]:
                items = self._items(answer, told)
                found.setdefault(json.dumps(items), {**items, "lines": []})["lines"].append(answer.line)
        return list(found.values())

    def _items(self, answer: Answer, told: Mapping[str, Any]) -> dict[str, Any]:
        base = self._library.base(answer.run, told)
        scores = told.get("scores") or []  # logs of earlier versions have none
        items = []
        for rank, id_ in enumerate(map(str, told["retrieved"])):
            score = f"{scores[rank]:.4g}" if rank < len(scores) and number(scores[rank]) is not None else ""
            shown = NOTHING_SHOWN if isinstance(base, str) else self._library.item(base, id_)
            items.append({"id": id_, "score": score, "right": id_ == told.get("gold"), **shown._asdict()})
        return {"items": items, "lacking": base if isinstance(base, str) else ""}


def _method(answer: Answer, prompt: str) -> dict[str, Any]:
    sample, told = answer.sample, usage(answer.sample)
    scored = _text(sample.get("filtered_resps"))
    output = _text(sample["resps"]) if "resps" in sample else scored
    metrics = logged(answer.run, sample)
    # What our benchmarks' official metric goes by.
    extracted = extract(scored).text if "official" in metrics else scored
    own = _text(sample.get("input"))
    seconds = [part for part in (told.get("seconds") or {}).values() if part is not None]
    counts = [(name, str(told[key])) for key, name in _COUNTS.items() if told.get(key) is not None]
    return {
        "line": answer.line,
        "output": output,
        "scored": scored if scored != output else "",
        "extracted": extracted if extracted != scored else "",
        "scores": [[name, _score(item)] for name, item in metrics.items()],
        "costs": [*counts, *([("seconds", f"{sum(seconds):.3f}")] if seconds else [])],
        "prompt": own if own != prompt else "",
        "lacking": _UNTOLD if answer.run.method in METHODS[1:] and "retrieved" not in told else "",
    }


def _score(item: Any) -> str:
    """A score, with what it belongs to behind it."""
    score = number(item)
    if score is None:
        return _text(item)
    of = ", ".join(map(str, item[:-1])) if isinstance(item, list) else ""
    return f"{score:.4g}" + (f" ({of})" if of else "")


def _text(value: Any) -> str:
    """lmms-eval writes a single answer without its list, and of several the list."""
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _words(details: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Prompt, answers, outputs, titles: each once."""
    words = [row["id"], details["question"], details["prompt"], details["target"], *details["answers"]]
    words += [method["output"] for method in details["methods"]]
    words += [item["title"] or item["id"] for found in details["retrieved"] for item in found["items"]]
    return list(dict.fromkeys(filter(None, words)))
