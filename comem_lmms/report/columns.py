"""Evaluations in, the columns of the main table out: tasks in the paper's order, each followed by its parts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from comem_lmms.report.reading import Evaluation

FAMILIES = ("infoseek", "oven", "mrag", "okvqa", "aokvqa", "viquae", "cvqa")  # in the paper's order
AVERAGE = "average"
# Tasks of one family ask the same questions unless they are named as parts of it. The first that fits is the part.
_PARTS = ("_unseen_question", "_unseen_entity", "_query", "_entity")


class Column(NamedTuple):
    """A task, or a part of it; the average has the task "average".

    Attributes:
        task, metric: as lmms-eval calls them.
        split: the rest of the metric's name, empty for the whole task.
        is_made_of: whether the task's result is made of this part's, or this is a whole task.
        lower_is_better: whether less is better.
        marks: of notes on all results in it.
        scale: what a value of lmms-eval is multiplied by, 100 for percent and 1 for a metric that is no fraction.
    """

    task: str
    metric: str
    split: str = ""
    is_made_of: bool = True
    lower_is_better: bool = False
    marks: tuple[str, ...] = ()
    scale: int = 100

    @property
    def says_what_is_right(self) -> bool:
        """Whether it is of a whole task, by scores of which 1 is right and 0 wrong."""
        return not self.split and self.task != AVERAGE and not self.lower_is_better and self.scale == 100

    @property
    def name(self) -> str:
        """What stands above it."""
        return f"{self.task} {self.split}".strip()


def columns_of(runs: Sequence[Evaluation], metric: str | None) -> list[Column]:
    """The tasks that have the metric, each followed by its parts, in the order of the task."""
    by_task: dict[str, Evaluation] = {}
    for run in runs:
        if run.metrics and (metric or run.metrics[0]) in run.scores:
            by_task.setdefault(run.task, run)
    columns = []
    for task in sorted(by_task, key=_place):
        run = by_task[task]
        main = metric or run.metrics[0]
        is_combined = f"{main}_stderr" in run.metrics  # how ours state the error of what is no mean
        lower = main in run.lower_is_better
        parts = [name for name in run.metrics if name.startswith(f"{main}_") and not name.endswith("_stderr")]
        direct = [name for name in parts if not any(name.startswith(f"{other}_") for other in parts)]
        columns.append(Column(task, main, lower_is_better=lower))
        columns += [
            Column(task, name, name.removeprefix(f"{main}_"), is_combined and name in direct, lower) for name in parts
        ]
    return columns


def ask_different_questions(tasks: Sequence[str]) -> bool:
    """Whether no two of the tasks ask the same questions, as translations of each other do. By our tasks' names."""
    families: dict[str, list[str]] = {}
    for task in tasks:
        families.setdefault(task.partition("_")[0], []).append(task)
    return all(len(members) == 1 or _are_parts(members) for members in families.values())


def _are_parts(tasks: Sequence[str]) -> bool:
    if tasks[0].startswith("cvqa_"):
        return not {"cvqa", "cvqa_all"} & set(tasks)
    wholes = {task.removesuffix(_part(task)) for task in tasks}
    return len(wholes) == 1 and not wholes & set(tasks) and all(task.endswith(_PARTS) for task in tasks)


def _place(task: str) -> tuple[Any, ...]:
    family, part = task.partition("_")[0], _part(task)
    place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    return place, task.removesuffix(part), _PARTS.index(part) if part else -1


def _part(task: str) -> str:
    return next((part for part in _PARTS if task.endswith(part)), "")
