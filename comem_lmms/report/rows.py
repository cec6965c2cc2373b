"""Reads what lmms-eval wrote: a folder of result and sample files in, one row a run and task out."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from comem_lmms.errors import UserError
from comem_lmms.report.reading import Folders, arguments, read_run, read_samples, result_files, samples, usage

log = logging.getLogger(__name__)

METHODS = ("baseline", "vanilla_rag", "comem")
RETRIEVALS = ("none", "clip", "oracle", "wrong")


@dataclass(frozen=True)
class Row:
    """One run on one task, or on a group of tasks. Percentages are out of 100; None means that the files do not tell.

    Attributes:
        task, method: as lmms-eval calls them; model_args tells variants of a method apart.
        retrieval: as `retrieval_of` has it.
        accuracy, stderr: of the metric, in percent.
        questions: how many were asked.
        prompt_tokens, memory_vectors: a question, on average.
        seconds_per_question: retrieval, encoding and answering; encode_seconds is the share of encoding.
        recall_at_1, recall_at_k: how often the right item is the best, or among the k, in percent.
        metric: as lmms-eval calls it.
        tasks: those of a group, whose questions and costs are theirs together.
    """

    task: str
    method: str
    model_args: str
    retrieval: str
    accuracy: float | None
    stderr: float | None
    questions: int
    prompt_tokens: float | None
    memory_vectors: float | None
    seconds_per_question: float | None
    encode_seconds: float | None
    recall_at_1: float | None
    recall_at_k: float | None
    metric: str = ""
    tasks: Sequence[str] = ()


def read_rows(folders: Folders, metric: str | None = None, task: str | None = None) -> list[Row]:
    """The newest run of every group, task, model, model_args, limit and offset below folders; methods in the order of
    the paper.

    Args:
        folders: one or several; they are searched with all folders below.
        metric: as lmms-eval calls it, e.g. ``paper``; by default each task's first. Groups without it are left out.
        task: the only task or group to read; by default all.

    Raises:
        UserError: there are no results, none has the metric, or a file is not what lmms-eval writes.
    """
    files = result_files(folders)
    rows: dict[Any, Row] = {}
    for path in reversed(files):
        rows |= dict(_rows(path, metric, task, {*rows}))
    if not any(row.metric for row in rows.values()):
        known = sorted({name for path in files for name in _metrics(read_run(path))})
        raise UserError(f"no task of these results has the metric {metric!r}; there are {', '.join(known)}")
    return sorted(rows.values(), key=_order)


def retrieved_ids(folder: str | Path, k: int | None = None) -> set[str]:
    """Ids of all items that the logged samples below a folder were given, or of the best ``k`` of each.

    Raises:
        UserError: there are none.
    """
    files = sorted(Path(folder).rglob("*_samples_*.jsonl"))
    usages = [usage(sample) for path in files for sample in read_samples(path)]
    ids = {id_ for told in usages for id_ in told.get("retrieved", ())[:k]}
    if silent := sum("retrieved" not in told for told in usages):
        log.warning("%s of %s answers do not tell their items, since they came from --use_cache", silent, len(usages))
    if not ids:
        raise UserError(
            f"no retrieved items in the {len(files)} sample files under {folder}; run vanilla_rag or comem with "
            "--log_samples --output_path first"
        )
    return ids


def write_summary(rows: Sequence[Row], path: Path) -> None:
    """Writes rows as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def retrieval_of(method: str, given: Mapping[str, str], usages: Sequence[Mapping[str, Any]]) -> str:
    """How items were found: "none", "clip", "oracle" or "wrong"; "clip by text" where the query was not the image.

    From the arguments, since answers from a cache do not tell; of a retrieval run they give the folder, which stands
    here where all answers are such.
    """
    if method not in METHODS[1:]:
        return "none"
    if (folder := run_of(given)) is None:
        return given.get("retrieval", "clip")
    told = next((told for told in usages if "retrieval" in told), {"retrieval": folder})
    return f"{told['retrieval']}" + (f" by {by}" if (by := told.get("query")) not in (None, "image") else "")


def run_of(given: Mapping[str, str]) -> str | None:
    """The folder of the retrieval run among the arguments of a model; None where it searched itself, or not at all."""
    argument = given.get("retrieval")
    return None if argument in (None, *RETRIEVALS) else argument


def kind_of(retrieval: str) -> str:
    """Of what `retrieval_of` has: without what was searched with."""
    return retrieval.partition(" by ")[0]


def _order(row: Row) -> tuple[Any, ...]:
    """Groups first, then by task; oracle and wrong retrieval, which are controls, after the rest."""
    kind = kind_of(row.retrieval)
    retrieval = RETRIEVALS.index(kind) if kind in RETRIEVALS else len(RETRIEVALS)
    method = METHODS.index(row.method) if row.method in METHODS else len(METHODS)
    return not row.tasks, row.task, max(retrieval, 1), method, row.method, row.model_args


def _rows(path: Path, metric: str | None, task: str | None, known: set[Any]) -> Iterator[tuple[Any, Row]]:
    """The rows of a result file with what tells them apart, without those that are known."""
    run = read_run(path)
    try:
        model_args = _model_args(run["config"]["model_args"])
        for name, scores in run["results"].items():
            if task not in (None, name):
                continue
            tasks = _tasks(run, name)
            chosen = metric or run["configs"][tasks[0]]["metric_list"][0]["metric"]
            # A run on a few of the questions does not replace one on all.
            extent = tuple(str(run["config"].get(option) or 0) for option in ("limit", "offset"))
            key = (name, run["config"]["model"], model_args, extent)
            if key not in known and (name in run["configs"] or _has(scores, chosen)):  # else a group without a mean
                yield key, _row(path, run, name, tasks, chosen)
    except (KeyError, IndexError, AttributeError) as error:
        raise UserError(f"{path} lacks {error}: not a result file of lmms-eval 0.7; remove it") from error


def _row(path: Path, run: dict[str, Any], name: str, tasks: list[str], metric: str) -> Row:
    scores, model_args = run["results"][name], _model_args(run["config"]["model_args"])
    usages = [usage(sample) for task in tasks for sample in samples(path, task)]
    return Row(
        task=name,
        method=run["config"]["model"],
        model_args=model_args,
        retrieval=retrieval_of(run["config"]["model"], arguments(model_args), usages),
        accuracy=_percent(scores, f"{metric},"),
        stderr=_percent(scores, f"{metric}_stderr,"),
        questions=sum(run["n-samples"][task]["effective"] for task in tasks),
        prompt_tokens=_mean(usages, lambda s: s["input_tokens"]),
        memory_vectors=_mean(usages, lambda s: s["memory_vectors"]),
        seconds_per_question=_mean(usages, lambda s: sum(s["seconds"].values())),
        encode_seconds=_mean(usages, lambda s: s["seconds"].get("encode", 0.0)),
        recall_at_1=_recall(usages, 1),
        recall_at_k=_recall(usages, None),
        metric=metric if _has(scores, metric) else "",
        tasks=[] if name in run["configs"] else tasks,
    )


def _tasks(run: dict[str, Any], name: str) -> list[str]:
    """The tasks of a group and of the groups in it, or a task itself."""
    if name in run["configs"]:
        return [name]
    return [task for member in run["group_subtasks"][name] for task in _tasks(run, member)]


def _has(scores: dict[str, Any], metric: str) -> bool:
    return any(key.startswith(f"{metric},") for key in scores)


def _metrics(run: dict[str, Any]) -> set[str]:
    names = {key.partition(",")[0] for scores in run["results"].values() for key in scores if "," in key}
    return {name for name in names if "_stderr" not in name}


def _model_args(given: str | dict[str, Any]) -> str:
    return given if isinstance(given, str) else ",".join(f"{key}={value}" for key, value in given.items())


def _percent(scores: dict[str, Any], start: str) -> float | None:
    value = next((value for key, value in scores.items() if key.startswith(start)), None)
    return 100 * value if isinstance(value, int | float) else None


def _mean(usages: list[dict[str, Any]], value: Any) -> float | None:
    """Over the answers that tell: answers that came from a cache or from a foreign model may not."""
    values = []
    for told in usages:
        try:
            values.append(value(told))
        except KeyError:
            continue
    return fmean(values) if values else None


def _recall(usages: list[dict[str, Any]], k: int | None) -> float | None:
    known = [s for s in usages if s.get("gold") is not None and s.get("retrieved")]
    return 100 * fmean(s["gold"] in s["retrieved"][:k] for s in known) if known else None
