"""A sample log scored again, without a model: what lmms-eval wrote with ``--log_samples`` in, one row a metric out.

A log holds no documents, so they are looked up in the task's data set by their numbers. Scorers and aggregation are the
task's own, and standard errors are made by lmms-eval as in a run.
"""

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms.errors import UserError
from comem_lmms.harness import load
from comem_lmms.plugin import task_folder

Items = dict[str, list[Any]]  # of each metric, what each document contributes
_FILTER = "none"  # the name of lmms-eval's filter that takes the answer as it is


class Rescored(NamedTuple):
    """A metric over all samples, its standard error, and what the logged scores give; None for what there is not."""

    metric: str
    value: float | None
    stderr: float | None
    logged: float | None


def rescore(path: Path, name: str) -> list[Rescored]:
    """Every metric of a task over a log, in the order of the task.

    Raises:
        UserError: there is no such task or file, the data set cannot be loaded, or the log is not of its documents.
    """
    task = _task(name)
    new: Items = {}
    logged: Items = {}
    seen: set[int] = set()
    for where, sample in _samples(path):
        document = _document(task, sample, where)
        if sample["doc_id"] in seen:
            raise UserError(f"{where} is of document {sample['doc_id']}, as one before it; remove one of them")
        seen.add(sample["doc_id"])
        for metric, item in task.process_results(document, _answers(sample)).items():
            new.setdefault(metric, []).append(item)
            if metric in sample:
                logged.setdefault(metric, []).append(sample[metric])
    if not seen:
        raise UserError(f"{path} holds no samples; give a *_samples_*.jsonl that lmms-eval wrote with --log_samples")
    values, before = _aggregate(task, new), _aggregate(task, logged)
    return [
        Rescored(
            metric,
            _number(values.get(f"{metric},{_FILTER}")),
            _number(values.get(f"{metric}_stderr,{_FILTER}")),
            _number(before.get(f"{metric},{_FILTER}")),
        )
        for metric in task.aggregation()
        if metric in new and not metric.endswith("_stderr")
    ]


def render(rows: Sequence[Rescored]) -> str:
    """The rows as a table; values are fractions, as lmms-eval's."""
    lines = [("metric", "score", "stderr", "logged")]
    lines += [(row.metric, *(_shown(number) for number in row[1:])) for row in rows]  # type: ignore[misc]
    width = max(len(line[0]) for line in lines)
    return "\n".join(f"{line[0]:{width}}" + "".join(f"  {cell:>6}" for cell in line[1:]) for line in lines)


def _task(name: str) -> Any:
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=task_folder(), include_defaults=False)
    if name in manager.all_groups:
        members = ", ".join(map(str, manager._get_config(name)["task"]))
        raise UserError(f"{name!r} is a group, and a log is of one task; give one of {members}")
    if name not in manager.all_subtasks:
        close = get_close_matches(name, manager.all_subtasks, n=3) or manager.all_subtasks
        raise UserError(f"task {name!r} is none of comem-lmms; did you mean {', '.join(close)}?")
    return load(manager, [name])[name]


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a *_samples_*.jsonl that lmms-eval wrote with --log_samples")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                sample = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"line {number} of {path} is cut off or damaged ({error}); remove it") from error
            if not isinstance(sample, dict):
                raise UserError(f"line {number} of {path} is no sample of lmms-eval but {sample!r:.40}; remove it")
            yield f"line {number} of {path}", sample


def _document(task: Any, sample: dict[str, Any], where: str) -> dict[str, Any]:
    """The document of a sample, without its images; its right answer tells whether it is the one that was asked."""
    number, documents = sample.get("doc_id"), task.eval_docs_no_media
    answers = sample.get("filtered_resps")
    told = answers if isinstance(answers, list) else [answers]
    if not isinstance(number, int) or not told or not all(isinstance(answer, str) for answer in told):
        raise UserError(f"{where} is no sample of lmms-eval: it needs doc_id and filtered_resps")
    target = str(task.doc_to_target(documents[number])) if 0 <= number < len(documents) else None
    if target != sample.get("target"):
        raise UserError(
            f"{where} has the right answer {sample.get('target')!r}, but document {number} of task {task.task_name} "
            f"has {target!r}; give the task that was run, with the data that it was run on"
        )
    return documents[number]


def _answers(sample: dict[str, Any]) -> list[str]:
    """lmms-eval writes a single answer without its list."""
    answers = sample["filtered_resps"]
    return [answers] if isinstance(answers, str) else answers


def _aggregate(task: Any, items: Items) -> dict[str, Any]:
    from lmms_eval.evaluator_utils import TaskOutput

    output = TaskOutput(task=task)
    for metric, values in items.items():
        output.sample_metrics[metric, _FILTER] = values
    output.calculate_aggregate_metric()
    return output.agg_metrics


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.4f}"
