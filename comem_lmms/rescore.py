"""A sample log scored again, without a model: what lmms-eval wrote with ``--log_samples`` in, one row a metric out.

The scorers and their aggregation are the task's own, and standard errors are made by lmms-eval as in a run.
"""

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from comem_lmms.errors import UserError
from comem_lmms.folders import not_needed
from comem_lmms.plugin import task_folder

Items = dict[str, list[Any]]  # of each metric, what each document contributes
_FILTER = "none"  # the name of lmms-eval's filter that takes the answer as it is


class Rescored(NamedTuple):
    """A metric over all samples, its standard error, and what the logged scores give; None for what there is not."""

    metric: str
    value: float | None
    stderr: float | None
    logged: float | None


def rescore(path: Path, task: str) -> list[Rescored]:
    """Every metric of a task over a log, in the order of the task.

    Raises:
        UserError: there is no such task or file, or the file is not a log of the task.
    """
    config = _config(task)
    new: Items = {}
    logged: Items = {}
    for where, sample in _samples(path):
        scores = _score(config, sample, f"{where} is no sample of task {task}")
        for metric, item in scores.items():
            new.setdefault(metric, []).append(item)
            if metric in sample:
                logged.setdefault(metric, []).append(sample[metric])
    values, before = _aggregate(config, new), _aggregate(config, logged)
    return [
        Rescored(
            metric,
            _number(values.get(f"{metric},{_FILTER}")),
            _number(values.get(f"{metric}_stderr,{_FILTER}")),
            _number(before.get(f"{metric},{_FILTER}")),
        )
        for metric in (entry["metric"] for entry in config["metric_list"])
        if metric in new and not metric.endswith("_stderr")
    ]


def render(rows: Sequence[Rescored]) -> str:
    """The rows as a table; values are fractions, as lmms-eval's."""
    lines = [("metric", "score", "stderr", "logged")]
    lines += [(row.metric, *(_shown(number) for number in row[1:])) for row in rows]  # type: ignore[misc]
    width = max(len(line[0]) for line in lines)
    return "\n".join(f"{line[0]:{width}}" + "".join(f"  {cell:>6}" for cell in line[1:]) for line in lines)


def _config(task: str) -> dict[str, Any]:
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=task_folder(), include_defaults=False)
    if task not in manager.all_subtasks:
        close = get_close_matches(task, manager.all_subtasks, n=3) or manager.all_subtasks
        raise UserError(f"task {task!r} is none of comem-lmms; did you mean {', '.join(close)}?")
    with not_needed():
        return manager._get_config(task)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a *_samples_*.jsonl that lmms-eval wrote with --log_samples")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                sample = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"line {number} of {path} is cut off or damaged ({error}); remove it") from error
            yield f"line {number} of {path}", sample


def _score(config: dict[str, Any], sample: dict[str, Any], complaint: str) -> dict[str, Any]:
    """As lmms-eval scores a document: it strips the answers first."""
    try:
        answers = [(answer or "").strip() for answer in sample["filtered_resps"]]
        return config["process_results"](sample["doc"], answers)
    except KeyError as error:
        raise UserError(
            f"{complaint}: it has no {error}, which the scorers need; give the task that was run"
        ) from error
    except (AttributeError, TypeError, IndexError) as error:
        raise UserError(f"{complaint} ({error}); give the task that was run") from error


def _aggregate(config: dict[str, Any], items: Items) -> dict[str, Any]:
    """By lmms-eval's own function, which takes a task only for its aggregations."""
    from lmms_eval.api.registry import get_aggregation
    from lmms_eval.evaluator_utils import TaskOutput

    named = {entry["metric"]: entry["aggregation"] for entry in config["metric_list"]}
    aggregation = {metric: get_aggregation(how) if isinstance(how, str) else how for metric, how in named.items()}
    output = TaskOutput(task=SimpleNamespace(aggregation=lambda: aggregation, args=None))
    for metric, values in items.items():
        output.sample_metrics[metric, _FILTER] = values
    output.calculate_aggregate_metric()
    return output.agg_metrics


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.4f}"
