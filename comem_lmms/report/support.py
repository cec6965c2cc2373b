"""Was the answer in what was retrieved, and was it given? The lines of the main table in, counts for each task out.

What a question was given is in the sample log; what the items say is in the knowledge base that a line names, and the
accepted answers are in the retrieval run that it names, or in the task's documents. What `comem-lmms retrieval eval`
looks for is looked for here.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms import harness, micro
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.records import KINDS
from comem_lmms.report.columns import Column
from comem_lmms.report.lines import Line
from comem_lmms.report.ranks import Ranks, count_ranks
from comem_lmms.runs import Run
from comem_lmms.runs.facts import normaliser
from comem_lmms.runs.recall import NOWHERE, looked_for, text_ranks

Places = Mapping[int, int | None]  # ranks from 1 by document, None where it was not found


class Found(NamedTuple):
    """What was looked for in the items of a line's questions, and where it was."""

    measure: str
    places: Places


class Facts(NamedTuple):
    """What the documents of a task tell, by number, and how its scorer normalises."""

    documents: Mapping[int, Mapping[str, Any]]
    normalise: Any


def find_support(lines: Sequence[Line], columns: Sequence[Column]) -> tuple[dict[tuple[int, str], Ranks], list[str]]:
    """Counts by the place of a line and the task, and what is to be said of those that have none.

    A line without retrieval is counted by what the others that were asked the same were given, if that is the same.

    Args:
        columns: of whole tasks, the metric of which says what is right.
    """
    finder = _Finder()
    counts: dict[tuple[int, str], Ranks] = {}
    silent: dict[str, list[str]] = {}
    for column in columns:
        found: dict[int, Found] = {}
        asked = [place for place, line in enumerate(lines) if column.task in line.results]
        for place in asked:
            if lines[place].retrieval == "none":
                continue
            try:
                found[place] = finder.find(lines[place], column.task)
            except UserError as error:
                named = f"{lines[place].name} ({lines[place].knowledge}) on {column.task}"
                silent.setdefault(str(error), []).append(named)
        lenders = {place: one for place, one in found.items() if not lines[place].is_control}
        for place in asked:
            if lines[place].retrieval != "none":
                continue
            targets = lines[place].results[column.task].answers.targets
            shared = [
                one
                for lender, one in lenders.items()
                if _agree(targets, lines[lender].results[column.task].answers.targets, one.places)
            ]
            if shared and all(one == shared[0] for one in shared):
                found[place] = shared[0]
        for place, (measure, places) in found.items():
            result = lines[place].results[column.task]
            counts[place, column.task] = count_ranks(measure, places, result, column.metric)
    told = [f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in silent.items()]
    if not counts and not told:
        return counts, ["Support is not known: no line tells what was retrieved."]
    return counts, [f"Support is not known of {'; of '.join(told)}."] if told else []


def _agree(one: Mapping[int, str], other: Mapping[int, str], numbers: Iterable[int]) -> bool:
    """Whether two logs have the same documents under numbers that both have."""
    return all(one[number] == other[number] for number in numbers if number in one)


class _Finder:
    """Opens each knowledge base and run once, and looks into the same items once."""

    def __init__(self) -> None:
        self._knowledge = cache(KnowledgeBase.open)
        self._run = cache(Run.open)
        self._documents = cache(_documents)
        self._known: dict[Any, Found] = {}

    def find(self, line: Line, task: str) -> Found:
        """Raises UserError where something that a line names is gone or is not what it was."""
        told = line.results[task].answers.told
        given = {number: tuple(usage["retrieved"]) for number, usage in told.items() if "retrieved" in usage}
        if not given:
            raise UserError("no sample log tells what was retrieved (--log_samples, and no answers from --use_cache)")
        knowledge = self._base(line, task)
        if lacking := {id_ for ids in given.values() for id_ in ids if knowledge.find(id_) is None}:
            raise UserError(f"knowledge base {knowledge.folder} has no item {min(lacking)!r}, which was retrieved")
        facts = self._facts(line, task)
        key = (task, knowledge.folder, tuple(sorted(given.items())))
        if key not in self._known:
            self._known[key] = find_first(task, given, facts, knowledge)
        return self._known[key]

    def _base(self, line: Line, task: str) -> KnowledgeBase:
        named = _argument(line, "knowledge", micro.NAME)
        knowledge = self._knowledge(Path(micro.resolve(named, "knowledge")))
        _check(line, task, "knowledge", knowledge.fingerprint, f"knowledge base {named}")
        return knowledge

    def _facts(self, line: Line, task: str) -> Facts:
        named = _argument(line, "retrieval", "clip")
        if named not in KINDS and Run.is_at(Path(named)):
            run = self._run(Path(named))
            _check(line, task, "retrieval", run.fingerprint, f"retrieval run {named}")
            return _of_run(run, task)
        facts, targets = self._documents(task)
        if any(targets.get(number) != target for number, target in line.results[task].answers.targets.items()):
            raise UserError("the task has other documents by now")
        return facts


def find_first(task: str, given: Mapping[int, Sequence[str]], facts: Facts, knowledge: KnowledgeBase) -> Found:
    """Where what documents tell is first among the ids that their questions were ``given``, best first.

    Raises:
        UserError: no document tells anything to look for.
    """
    numbers = sorted(given.keys() & facts.documents.keys())
    documents = [facts.documents[number] for number in numbers]
    ranks = text_ranks(documents, lambda place: given[numbers[place]], {task: facts.normalise}, knowledge)
    # OVEN's documents tell no short answer, but the entity that is the answer.
    measure = next((name for name in ("answer", "entity") if any(looked_for(d, name) for d in documents)), None)
    if measure is None:
        raise UserError("its documents tell neither answers nor an entity")
    places = {
        number: None if rank == NOWHERE else int(rank) + 1
        for number, document, rank in zip(numbers, documents, ranks[measure], strict=True)
        if looked_for(document, measure)
    }
    return Found(measure, places)


def _of_run(run: Run, task: str) -> Facts:
    if task not in run.manifest["tasks"]:
        raise UserError(f"retrieval run {run.folder} is not of this task")
    rows = (row for batch in run.documents.batches(run.documents.columns) for row in batch.to_pylist())
    documents = {row["document"]: row for row in rows if row["task"] == task}
    return Facts(documents, normaliser(task, run.manifest["tasks"][task]["normalise"]))


def _documents(task: str) -> tuple[Facts, dict[int, str]]:
    """What a task's own documents tell, and their right answers as a sample log has them."""
    (documents,) = harness.documents([task])
    rows = {n: {"task": task, **documents.facts(n)._asdict()} for n in range(len(documents))}
    targets = {number: documents.target(number) for number in rows}
    return Facts(rows, normaliser(task, documents.declared.get("normalise"))), targets


def _argument(line: Line, name: str, default: str) -> str:
    return next(iter(line.results.values())).run.arguments.get(name, default)


def _check(line: Line, task: str, part: str, fingerprint: str, what: str) -> None:
    """Answers tell the beginnings of fingerprints."""
    told = {(usage.get("fingerprints") or {}).get(part) for usage in line.results[task].answers.usages}
    if any(one and not fingerprint.startswith(one) for one in told):
        raise UserError(f"{what} is not what it was")
