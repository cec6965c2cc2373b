"""Folders of results in, their questions out, each with the answers of all lines of the report, task by task."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from comem_lmms.errors import UserError
from comem_lmms.report.lines import Line, Result, name_lines, newest
from comem_lmms.report.reading import Answers, Evaluation, Folders, evaluations, read_answers, result_files, samples

_NOTHING = Answers({}, {}, [], {})


@dataclass(frozen=True)
class Answer:
    """What one line made of a question.

    Attributes:
        line: its place among the lines.
        run: what it was logged by.
        sample: as lmms-eval logged it.
    """

    line: int
    run: Evaluation
    sample: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """A document of a task, the same for all who answered: by its number and its right answer, as in the report.

    Attributes:
        number: of the document.
        target: its right answer, as logged.
        variant: how many others there are of this number, of runs on other data, before this one.
        answers: at most one a line, in the order of the lines.
    """

    task: str
    number: int
    target: str
    variant: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The same whenever a site is built of the same results."""
        return f"{self.task}/{self.number}" + (f"/{self.variant}" if self.variant else "")


@dataclass(frozen=True)
class Log:
    """All that was logged below some folders: of each line and task the newest run.

    Attributes:
        lines: those of the report that logged samples, in its order and with its names.
        tasks: those with samples.
        problems: what is left out, in words.
    """

    lines: Sequence[Line]
    tasks: Sequence[str]
    problems: Sequence[str]

    def questions(self, task: str) -> list[Question]:
        """The questions of a task, by their numbers."""
        found: dict[tuple[int, str], Question] = {}
        variants: Counter[int] = Counter()
        for place, line in enumerate(self.lines):
            if task not in line.results:
                continue
            run = line.results[task].run
            for (number, target), sample in _newest_samples(run).items():
                if (number, target) not in found:
                    found[number, target] = Question(task, number, target, variants[number])
                    variants[number] += 1
                found[number, target].answers.append(Answer(place, run, sample))
        return sorted(found.values(), key=lambda question: (question.number, question.variant))


def read(folders: Folders) -> Log:
    """What was logged below folders, which are searched with all folders below.

    Raises:
        UserError: there are no results, one is not of lmms-eval 0.7, or none has samples that can be read.
    """
    found, _ = newest(run for path in result_files(folders) for run in evaluations(path))
    problems: list[str] = []
    results = [
        {task: Result(run, _logged(run, problems)) for task, run in of_tasks.items()} for of_tasks in found.values()
    ]
    lines = [_with_samples(line) for line in name_lines(results)]  # named as in the report, where all are
    lines = [line for line in lines if line.results]
    if not lines:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"there is no question to show: {problems[0] if problems else 'no task was run'}{more}")
    return Log(lines, sorted({task for line in lines for task in line.results}), problems)


def _logged(run: Evaluation, problems: list[str]) -> Answers:
    """The answers of a run; none, and a problem more, if there is no log or it is damaged."""
    try:
        answers = read_answers(run.path, run.task)
    except UserError as error:
        problems.append(str(error))
        return _NOTHING
    if not answers.targets:
        problems.append(f"{run.path} has no samples of {run.task} beside it; run lmms-eval with --log_samples")
        return _NOTHING
    return answers


def _with_samples(line: Line) -> Line:
    return replace(line, results={task: result for task, result in line.results.items() if result.answers.targets})


def _newest_samples(run: Evaluation) -> dict[tuple[int, str], Mapping[str, Any]]:
    """By number and right answer; of several samples of a document the last counts, as in the report."""
    by_number = {sample["doc_id"]: sample for sample in samples(run.path, run.task) if _is_numbered(sample)}
    return {(number, str(sample.get("target"))): sample for number, sample in by_number.items()}


def _is_numbered(sample: Mapping[str, Any]) -> bool:
    return isinstance(sample.get("doc_id"), int)
