"""The questions of a task in, by which metrics an answer can be right or wrong and what the questions are told apart by
out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from comem_lmms.explorer.questions import Question
from comem_lmms.report.columns import FAMILIES
from comem_lmms.report.reading import Evaluation

_LARGEST = 1e300  # JSON may hold numbers that are no float
LANGUAGES = {"es": "Spanish", "pt": "Portuguese", "zh": "Chinese", "ru": "Russian", "bg": "Bulgarian"}


def number(item: Any) -> float | None:
    """The score in what a document contributes to a metric: itself, or the last in a list of what it belongs to."""
    if isinstance(item, list) and item:
        item = item[-1]
    return float(item) if isinstance(item, int | float) and abs(item) < _LARGEST else None  # which is false for NaN


def logged(run: Evaluation, sample: Mapping[str, Any]) -> dict[str, Any]:
    """All metrics of a sample; ours log what is no mean once more, under the name of its standard error."""
    known = {*run.metrics, *run.scores}
    return {name: item for name, item in sample.items() if name in known and not name.endswith("_stderr")}


def judges(questions: Sequence[Question]) -> list[str | None]:
    """The metrics by which an answer is right or wrong: those of which more is better, which are no part of another,
    and of which every score is from 0 to 1. The first is the task's main one, or None if that is none of them."""
    able: dict[str, bool] = {}
    for question in questions:
        for answer in question.answers:
            metrics = logged(answer.run, answer.sample)
            for name in _whole(metrics):
                if name not in answer.run.lower_is_better and (score := number(metrics[name])) is not None:
                    able[name] = able.get(name, True) and 0 <= score <= 1
    main = {answer.run.metrics[0] for question in questions for answer in question.answers if answer.run.metrics}
    found = [name for name, is_able in able.items() if is_able]
    first = next((name for name in found if name in main), None)
    return [first, *(name for name in found if name != first)]


def splits(questions: Sequence[Question]) -> dict[str, list[str]]:
    """By question's id the parts of the benchmark that it is in: the parts of the main metric that it counts for. A
    part that all questions are in, or the same as another, tells nothing."""
    members: dict[str, set[str]] = {}
    for question in questions:
        for answer in question.answers:
            metrics = logged(answer.run, answer.sample)
            main = next(iter(answer.run.metrics), "")
            for name in metrics:
                if name.startswith(f"{main}_"):
                    members.setdefault(name.removeprefix(f"{main}_"), set()).add(question.id)
    found: dict[str, list[str]] = {}
    seen: set[frozenset[str]] = set()
    for part, ids in members.items():
        if len(ids) < len(questions) and frozenset(ids) not in seen:
            seen.add(frozenset(ids))
            for id_ in ids:
                found.setdefault(id_, []).append(part)
    return found


def language_of(task: str) -> str:
    """The language that one of our tasks asks in, as far as its name tells; translations of InfoSeek end in theirs."""
    family, _, rest = task.partition("_")
    if family not in FAMILIES or family == "cvqa":  # which asks in many
        return ""
    return LANGUAGES.get(rest, "English")


def _whole(metrics: Iterable[str]) -> list[str]:
    names = list(metrics)
    return [name for name in names if not any(name.startswith(f"{other}_") for other in names)]
