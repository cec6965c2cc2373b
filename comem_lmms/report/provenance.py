"""A line of the main table in, what it was made of out, in words."""

from collections.abc import Iterable, Mapping, Sequence

from comem_lmms.report.lines import Line
from comem_lmms.report.reading import Evaluation


def provenance(line: Line) -> list[tuple[str, str]]:
    """Names and values: the model, what the answers depend on, and the run of each task; without what is not known."""
    run = next(iter(line.results.values())).run
    facts = [
        ("revision", run.arguments.get("revision", "")),
        ("arguments", _listed(run.arguments)),
        *((name, ", ".join(values)) for name, values in line.told("fingerprints").items()),
        ("versions", _listed({name: " and ".join(values) for name, values in line.told("versions").items()})),
        *((task, _run(result.run)) for task, result in line.results.items()),
    ]
    return [(name, value) for name, value in facts if value]


def older_runs(older: Sequence[Evaluation]) -> list[str]:
    """A line for each file that newer runs replace, with its tasks."""
    by_file: dict[str, list[str]] = {}
    for run in older:
        by_file.setdefault(str(run.path), []).append(run.task)
    return [f"{file}: {', '.join(tasks)}" for file, tasks in by_file.items()]


def extent(run: Evaluation) -> str:
    """How many questions were asked of how many, and why not all."""
    named = [f"{name} {value}" for name, value in run.extent.items()]
    of_all = f" of {run.documents:,}" if is_partial(run) else ""
    return f"{run.questions:,}{of_all} questions" + (f" ({', '.join(named)})" if named else "")


def is_partial(run: Evaluation) -> bool:
    """Whether fewer questions were asked than the task has."""
    return run.questions < run.documents or bool(run.extent)


def _run(run: Evaluation) -> str:
    told = [
        str(run.path),
        extent(run),
        run.prompt and f"prompts {run.prompt}",
        run.generation,
        run.version and f"lmms-eval {run.version}",
    ]
    return "; ".join(part for part in told if part)


def _listed(values: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in dict(values).items())
