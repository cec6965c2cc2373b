"""Which results of one task may stand next to each other: results in, what is different about each of them out."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from comem_lmms.report.lines import Line, Result
from comem_lmms.report.provenance import extent, is_partial


class Comparison(NamedTuple):
    """What one task's results have in common, and what not.

    Attributes:
        shared: what is to be said of all of them.
        notes: by the place of a line, what is different about its result.
        others: places of lines that were asked other documents than most.
    """

    shared: list[str]
    notes: dict[int, list[str]]
    others: set[int]


def compare_runs(lines: Sequence[Line], task: str) -> Comparison:
    """Documents, knowledge base, prompt style and arguments of generation against those of most lines."""
    results = {place: line.results[task] for place, line in enumerate(lines) if task in line.results}
    documents = {place: _documents(result) for place, result in results.items()}
    usual = _usual(documents.values())
    others = {place for place, asked in documents.items() if not _same(asked, usual)}
    notes: dict[int, list[str]] = {place: [] for place in results}
    for place in sorted(others):
        notes[place].append(f"{task}: {extent(results[place].run)}, other than most lines here")
    first = next(result for place, result in results.items() if place not in others)
    for place, kinds in _different({place: _settings(result) for place, result in results.items()}):
        notes[place] += [f"{task}: {kind}" for kind in kinds]
    shared = [f"{task}: {extent(first.run)}"] if is_partial(first.run) else []
    return Comparison(shared, {place: said for place, said in notes.items() if said}, others)


def _documents(result: Result) -> tuple[int, Hashable]:
    """How many, and which, where the answers are there to tell."""
    targets = result.answers.targets
    return result.run.questions, hash(tuple(sorted(targets.items()))) if targets else None


def _same(one: tuple[int, Hashable], other: tuple[int, Hashable]) -> bool:
    return one[0] == other[0] and (one[1] == other[1] or None in (one[1], other[1]))


def _usual(found: Iterable[tuple[int, Hashable]]) -> tuple[int, Hashable]:
    """What most have; of equally many the larger set, and rather one of known documents."""
    counts = Counter(found)
    return max(counts, key=lambda one: (counts[one], one[0], one[1] is not None))


def _settings(result: Result) -> dict[str, str]:
    """What should be the same, in words; an empty one is unknown, or does not apply."""
    fingerprints = [usage.get("fingerprints") or {} for usage in result.answers.usages]
    bases = {told["knowledge"] for told in fingerprints if "knowledge" in told}
    return {
        "knowledge base": " and ".join(sorted(bases)),
        # The paper asks with and without knowledge in different words.
        "prompts": result.run.prompt.removesuffix("_knowledge"),
        "generation": result.run.generation,
    }


def _different(settings: dict[int, dict[str, str]]) -> Iterable[tuple[int, list[str]]]:
    usual = {
        kind: Counter(one[kind] for one in settings.values() if one[kind]).most_common(1)
        for kind in ("knowledge base", "prompts", "generation")
    }
    for place, own in settings.items():
        yield (
            place,
            [
                f"{kind} {own[kind]}, most lines here {common[0][0]}"
                for kind, common in usual.items()
                if own[kind] and own[kind] != common[0][0]
            ],
        )
