"""What lmms-eval writes, as it is: result files and the sample files next to them in, runs and their answers out."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem_lmms.errors import UserError
from comem_lmms.files import read_json
from comem_lmms.scoring.aggregate import Estimate

Folders = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Evaluation:
    """A run of lmms-eval on one task, without its answers.

    Attributes:
        path: the result file; its name begins with ``date``, as year, month, day and time of day.
        method, arguments: what ``--model`` and ``--model_args`` were.
        model: the name that lmms-eval finds in the arguments.
        metrics: as the task lists them, or as its results have them; the first is its main one.
        scores: value and standard error of every metric, as lmms-eval states them; mostly fractions.
        lower_is_better: the metrics of which less is better.
        questions, documents: how many were asked, and how many the task has.
        limit, offset: of the command line, None and 0 without.
        prompt: the style of the task's prompt settings, or all of the settings where they have no style.
        generation: the task's arguments of generation with those of the command line.
        version: lmms-eval's, where it knows it.
        data: the data set's path.
    """

    path: Path
    date: str
    task: str
    method: str
    arguments: Mapping[str, str]
    model: str
    metrics: Sequence[str]
    scores: Mapping[str, Estimate]
    lower_is_better: frozenset[str]
    questions: int
    documents: int
    limit: float | None
    offset: int
    prompt: str
    generation: str
    version: str
    data: str

    @property
    def extent(self) -> dict[str, str]:
        """The options of the command line that leave questions out."""
        given = (("--limit", self.limit), ("--offset", self.offset))
        return {name: f"{value:g}" for name, value in given if value}


@dataclass(frozen=True)
class Answers:
    """The sample log of one run on one task; empty if there is none.

    Attributes:
        targets: the right answer of each document, by its number.
        items: of each metric that was asked for, what each document contributes to it.
        usages: what each answer cost, empty where the log does not tell.
        told: the same by document.
    """

    targets: Mapping[int, str]
    items: Mapping[str, Mapping[int, Any]]
    usages: Sequence[Mapping[str, Any]]
    told: Mapping[int, Mapping[str, Any]]


def result_files(folders: Folders) -> list[Path]:
    """All result files below the folders, oldest first.

    Raises:
        UserError: there are none, or there is no such folder.
    """
    given = [folders] if isinstance(folders, str | Path) else folders
    for folder in given:
        if not Path(folder).is_dir():
            raise UserError(f"there is no folder {folder}; give what --output_path of lmms-eval was")
    files = {path.resolve(): path for folder in given for path in Path(folder).rglob("*_results.json")}
    if not files:
        named = " and ".join(map(str, given))
        raise UserError(f"no results of lmms-eval (*_results.json) under {named}; run it with --output_path {given[0]}")
    return sorted(files.values(), key=lambda path: (path.name, str(path)))


def task_names(folders: Folders) -> list[str]:
    """The tasks and groups of all result files below the folders.

    Raises:
        UserError: there are no results, or a file is not one of lmms-eval 0.7.
    """
    return list(dict.fromkeys(name for path in result_files(folders) for name in read_run(path)["results"]))


def read_run(path: Path) -> dict[str, Any]:
    """The content of a result file, which has what lmms-eval 0.7 writes.

    Raises:
        UserError: it has not.
    """
    run = read_json(path)
    for part, kind in (("results", dict), ("configs", dict), ("n-samples", dict), ("config", dict)):
        if not isinstance(run.get(part), kind):
            raise UserError(f"{path} lacks {part!r}: not a result file of lmms-eval 0.7; remove it")
    return run


def evaluations(path: Path) -> Iterator[Evaluation]:
    """The tasks of a result file; groups are not among them.

    Raises:
        UserError: it is not one of lmms-eval 0.7.
    """
    run = read_run(path)
    try:
        yield from [_evaluation(path, run, task) for task in run["configs"] if task in run["results"]]
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{path} lacks {error}: not a result file of lmms-eval 0.7; remove it") from error


def read_answers(path: Path, task: str, metrics: Iterable[str] = ()) -> Answers:
    """The answers that a run of a result file logged for a task."""
    targets: dict[int, str] = {}
    items: dict[str, dict[int, Any]] = {metric: {} for metric in metrics}
    usages = []
    told = {}
    for sample in samples(path, task):
        usages.append(usage(sample))
        if isinstance(number := sample.get("doc_id"), int):
            targets[number] = str(sample.get("target"))
            told[number] = usages[-1]
            for metric, of_documents in items.items():
                if metric in sample:
                    of_documents[number] = sample[metric]
    return Answers(targets, items, usages, told)


def samples(path: Path, task: str) -> list[dict[str, Any]]:
    """The logged samples of a task, from the file next to a result file; none without --log_samples."""
    file = path.with_name(path.name.replace("_results.json", f"_samples_{task}.jsonl"))
    return read_samples(file) if file.is_file() else []


def read_samples(file: Path) -> list[dict[str, Any]]:
    """The samples of a log.

    Raises:
        UserError: it is damaged.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is cut off or damaged ({error}); remove it, or run again") from error
    if not all(isinstance(sample, dict) for sample in found):
        raise UserError(f"{file} holds lines that are no samples of lmms-eval; remove it, or run again")
    return found


def usage(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What a sample's answer cost; empty where it does not tell, as of an answer that came from a cache."""
    counts = sample.get("token_counts") or [None]
    return counts[0] or {} if isinstance(counts, list) else {}


def arguments(given: str | Mapping[str, Any]) -> dict[str, str]:
    """``--model_args`` by name."""
    if isinstance(given, str):
        return dict(part.split("=", 1) for part in given.split(",") if "=" in part)
    return {str(name): str(value) for name, value in given.items()}


def _evaluation(path: Path, run: Mapping[str, Any], task: str) -> Evaluation:
    config, settings, counts = run["configs"][task], run["config"], run["n-samples"][task]
    prompts = config.get("lmms_eval_specific_kwargs") or {}
    own = {name: value for name, value in prompts.items() if not isinstance(value, dict)}
    generation = json.dumps(config.get("generation_kwargs") or {}, sort_keys=True, default=str)
    better = run.get("higher_is_better", {}).get(task, {})
    scores = _scores(run["results"][task])
    version = str(run.get("lmms_eval_version") or "").partition("@")[0]  # behind it stands a commit
    return Evaluation(
        path=path,
        date=path.name.removesuffix("_results.json"),
        task=task,
        method=str(settings["model"]),
        arguments=arguments(settings.get("model_args") or ""),
        model=str(run.get("model_name") or ""),
        metrics=[entry["metric"] for entry in config.get("metric_list") or ()] or list(scores),
        scores=scores,
        lower_is_better=frozenset(metric for metric, higher in better.items() if higher is False),
        questions=counts["effective"],
        documents=counts["original"],
        limit=settings.get("limit"),
        offset=settings.get("offset") or 0,
        prompt=str(own.get("prompt", json.dumps(own, sort_keys=True, default=str) if any(own.values()) else "")),
        generation=" ".join(part for part in (generation, str(settings.get("gen_kwargs") or "")) if part),
        version="" if version == "unknown" else version,
        data=str(config.get("dataset_path", "")),
    )


def _scores(results: Mapping[str, Any]) -> dict[str, Estimate]:
    """The first filter of each metric, as the task lists them."""
    found: dict[str, Estimate] = {}
    for key, value in results.items():
        metric, comma, filter_name = key.partition(",")
        if comma and metric not in found and "_stderr" not in metric:
            found[metric] = Estimate(_number(value), _number(results.get(f"{metric}_stderr,{filter_name}")))
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value == value else None
