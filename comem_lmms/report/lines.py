"""Evaluations in, the lines of a table out: what belongs to one method with one model, and how it is called."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from comem_lmms import micro
from comem_lmms.report.reading import Answers, Evaluation
from comem_lmms.report.rows import METHODS, kind_of, retrieval_of, run_of

CONTROLS = ("oracle", "wrong")
HOW = ("batch_size", "device", "max_batch_size")  # say how answers are computed, not which
# Where a model is named: first what answers in the place of another, then lmms-eval's own names for it.
_MODEL = ("reader", "pretrained", "model", "model_version", "model_name", "model_id", "path", "engine")
_SHOWN = (*_MODEL, "retrieval", "top_k")  # have columns of their own


class Result(NamedTuple):
    """A run on one task with its answers."""

    run: Evaluation
    answers: Answers


@dataclass(frozen=True)
class Line:
    """One method with one model.

    Attributes:
        method, model, retrieval: retrieval as `retrieval_of` has it.
        k: items a question was given; None where nothing tells.
        variant: arguments that tell it from lines that are otherwise called the same, and of which retrieval run it is
            where lines of the same retrieval are of several.
        results: by task.
    """

    method: str
    model: str
    retrieval: str
    k: int | None
    variant: str
    results: Mapping[str, Result]

    @property
    def name(self) -> str:
        """The method with what tells it apart."""
        return f"{self.method} {self.variant}".strip()

    @property
    def knowledge(self) -> str:
        """How items were found and how many a question was given; a dash without."""
        if self.retrieval == "none":
            return "-"
        return self.retrieval if self.k is None else f"{self.retrieval}, k={self.k}"

    @property
    def is_control(self) -> bool:
        """Whether it was given the right items, or wrong ones, on purpose."""
        return kind_of(self.retrieval) in CONTROLS

    def told(self, part: str) -> dict[str, list[str]]:
        """What the answers say of ``fingerprints`` or ``versions``: the values of each, mostly one."""
        found: dict[str, dict[str, None]] = {}
        for result in self.results.values():
            for usage in result.answers.usages:
                for name, value in (usage.get(part) or {}).items():
                    found.setdefault(name, {})[str(value)] = None
        return {name: list(values) for name, values in found.items()}


def newest(found: Iterable[Evaluation]) -> tuple[dict[Any, dict[str, Evaluation]], list[Evaluation]]:
    """Of runs from the oldest on: by line and task the newest, and the rest."""
    lines: dict[Any, dict[str, Evaluation]] = {}
    older = []
    for run in found:
        line = lines.setdefault(_key(run), {})
        if run.task in line:
            older.append(line[run.task])
        line[run.task] = run
    return lines, older


def name_lines(results: Sequence[Mapping[str, Result]]) -> list[Line]:
    """The lines, named so that no two are alike; methods in the order of the paper, controls last."""
    lines = [_line(of_tasks) for of_tasks in results]
    named = [_with_variant(line, lines) for line in lines]
    return sorted(named, key=_order)


def _key(run: Evaluation) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A run on a few of the questions does not replace one on all."""
    given = {**run.arguments, **run.extent}
    return run.method, tuple(sorted((name, value) for name, value in given.items() if name not in HOW))


def _line(results: Mapping[str, Result]) -> Line:
    run = next(iter(results.values())).run
    usages = [usage for result in results.values() for usage in result.answers.usages]
    retrieval = retrieval_of(run.method, run.arguments, usages)
    return Line(run.method, _model(run), retrieval, _k(run, usages, retrieval), "", results)


def _model(run: Evaluation) -> str:
    named = next((run.arguments[name] for name in _MODEL if name in run.arguments), "")
    if named or run.method not in METHODS or "base" in run.arguments:
        return named or run.arguments.get("base") or run.model or run.method
    return micro.NAME


def _k(run: Evaluation, usages: Sequence[Mapping[str, Any]], retrieval: str) -> int | None:
    if retrieval == "none":
        return None
    given = run.arguments.get("top_k", "")
    told = (len(usage["retrieved"]) for usage in usages if "retrieved" in usage)
    return int(given) if given.isdecimal() else max(told, default=None)


def _title(line: Line) -> tuple[Any, ...]:
    return line.method, line.model, line.retrieval, line.k


def _with_variant(line: Line, lines: Sequence[Line]) -> Line:
    alike = [one for one in lines if _title(one) == _title(line)]
    shared = set.intersection(*({*_arguments(one).items()} for one in alike))
    runs = {run_of(_arguments(one)) for one in lines if one.retrieval == line.retrieval} - {None}
    if len(runs) > 1:  # else a line of one method would not tell which one of another it goes with
        shared = {(name, value) for name, value in shared if name != "retrieval"}
    variant = " ".join(f"{name}={value}" for name, value in _arguments(line).items() if (name, value) not in shared)
    return replace(line, variant=variant)


def _arguments(line: Line) -> dict[str, str]:
    run = next(iter(line.results.values())).run
    given = {**run.arguments, **run.extent}
    told = ["retrieval"] if run_of(given) else []
    return {name: value for name, value in given.items() if name not in (*HOW, *_SHOWN) or name in told}


def _order(line: Line) -> tuple[Any, ...]:
    method = METHODS.index(line.method) if line.method in METHODS else len(METHODS)
    control = 1 + CONTROLS.index(kind_of(line.retrieval)) if line.is_control else 0
    return line.model, control, method, line.method, line.k or 0, line.variant
