"""What the benchmarks share: a document in, its prompt out; a set of documents in, those of a task out; metric lists.

YAML files name these functions directly (``!function comem_lmms.tasks.common.text``). Documents are never changed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from loguru import logger
from PIL import Image

from comem_lmms import data
from comem_lmms.errors import UserError
from comem_lmms.questions import ask, chat
from comem_lmms.scoring.aggregate import Estimate
from comem_lmms.scoring.aggregate import mean as mean_of

Doc = dict[str, Any]
Settings = dict[str, str]  # a task's lmms_eval_specific_kwargs for the model: prompt (a style) and template


# ---- prompts --------------------------------------------------------------------------------------------------------


def images(doc: Doc) -> list[Image.Image]:
    """The image that the question is about."""
    return [doc["image"].convert("RGB")]


def text(doc: Doc, lmms_eval_specific_kwargs: Settings) -> str:
    """The prompt of a question without choices."""
    return prompt(doc["question"], lmms_eval_specific_kwargs)


def messages(doc: Doc, lmms_eval_specific_kwargs: Settings) -> list[dict[str, Any]]:
    """The chat of a question without choices."""
    return chat(images(doc), text(doc, lmms_eval_specific_kwargs), lmms_eval_specific_kwargs["prompt"])


def prompt(question: str, settings: Settings) -> str:
    """A question in the words that the task's settings ask for."""
    return ask(settings["template"], settings["prompt"], question)


# ---- documents ------------------------------------------------------------------------------------------------------


def complete(name: str, split: str, chosen: Callable[[Any], Iterable[int] | None] = lambda rows: None) -> Callable:
    """A ``process_docs``: the rows of a data set whose number has been checked, or those of them that are ``chosen``.

    Args:
        name, split: what `comem_lmms.data` calls the data set.
        chosen: from all rows the numbers of those to keep; None for all. It may raise UserError.
    """

    def process_docs(rows: Any) -> Any:
        try:
            data.verify(rows, name, split)
            kept = chosen(rows)
        except UserError as error:  # lmms-eval tries five times and hides it behind an error of its own
            logger.error(str(error))
            raise
        return rows if kept is None else rows.select(list(kept))

    return process_docs


def where(column: str, keeps: Callable[[Any], bool]) -> Callable[[Any], list[int]]:
    """For `complete`: the rows whose cell of a column is to be kept. No image is read."""
    return lambda rows: [number for number, cell in enumerate(rows[column]) if keeps(cell)]


# ---- metric lists ---------------------------------------------------------------------------------------------------


def mean(name: str, higher_is_better: bool = True) -> list[dict[str, Any]]:
    """The entry of a metric that is a mean; lmms-eval adds the standard error."""
    return [{"metric": name, "aggregation": "mean", "higher_is_better": higher_is_better}]


def combined(name: str, estimate: Callable[[Sequence[Any]], Estimate]) -> list[dict[str, Any]]:
    """The entries of a metric that is no mean, and of its standard error.

    lmms-eval states "N/A" as ``NAME_stderr`` of such a metric. A metric of that very name, behind it, takes the place,
    in the result file and in the printed table.
    """

    def value(items: Sequence[Any]) -> float | None:
        return estimate(items).value

    def stderr(items: Sequence[Any]) -> float | str:
        error = estimate(items).stderr
        return "N/A" if error is None else error

    return [
        {"metric": name, "aggregation": value, "higher_is_better": True},
        {"metric": f"{name}_stderr", "aggregation": stderr, "higher_is_better": False},
    ]


def to_combine(name: str, item: Any) -> dict[str, Any]:
    """A document's contribution to a `combined` metric; the item is no number, or lmms-eval would average it."""
    return {name: item, f"{name}_stderr": item}


# ---- groups ---------------------------------------------------------------------------------------------------------


def mean_of_columns(metrics: Sequence[float | None], sizes: list[Any], weight_by_size: bool) -> float | None:
    """A group's unweighted mean over the tasks that have the metric; None if it has no value in one of them.

    lmms-eval goes on to pool the tasks' standard errors with ``sizes``, as if all questions were one sample. With equal
    sizes its formula is the right one for an unweighted mean of independent tasks, sqrt(sum of squares) / n, so they
    are set equal here. It also sums them up as the group's ``samples``, which it drops before it states the results.
    """
    sizes[:] = [2] * len(sizes)  # 1 divides by zero there
    values = [metric for metric in metrics if metric is not None]
    return mean_of(values) if len(values) == len(metrics) else None


def mean_of_translations(metrics: Sequence[float | None], sizes: list[Any], weight_by_size: bool) -> float | None:
    """As `mean_of_columns` where the tasks ask the same questions: their errors depend on each other, so none is given.

    lmms-eval computes one in any case; with these sizes it comes to "N/A", its word for a standard error there is not.
    """
    value = mean_of_columns(metrics, sizes, weight_by_size)
    sizes[:] = [_Unknown()] * len(sizes)
    return value


class _Unknown:
    """A number that makes all that is computed with it unknown, and its root "N/A". NaN would be no JSON."""

    def _unknown(self, *_: Any) -> "_Unknown":
        return self

    __add__ = __radd__ = __sub__ = __mul__ = __rmul__ = __truediv__ = _unknown

    def sqrt(self) -> str:
        """What numpy's sqrt of an object calls."""
        return "N/A"
