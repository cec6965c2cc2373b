"""Rollouts: a folder of lmms-eval's result and sample files in, runs and what they answered out.

Read is what lmms-eval 0.7 writes with ``--log_samples --output_path``, and in it what our models say of their items.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms.errors import UserError
from comem_lmms.files import read_json, sha256

log = logging.getLogger(__name__)

_SAMPLES, _RESULTS = "_samples_", "_results.json"
_REMEDY = "run lmms-eval with --log_samples --output_path FOLDER"


class Output(NamedTuple):
    """What a model wrote, all of it, and what of it the scorer was given (without ``<think>``, for example)."""

    text: str
    scored: str


class Answer(NamedTuple):
    """One line of a sample log.

    Attributes:
        where: file and line, for messages.
        document: its number in the task.
        asked: the prompt that lmms-eval made of it.
        target: its right answer.
        outputs: more than one only where lmms-eval logs repeats.
        items: ids that the model was given, best first; none where it got none or the log does not tell.
        tokens: length of the first output, if known.
        fingerprints: of what the answer depends on, by part.
        retrieval: how items were found.
    """

    where: str
    document: int
    asked: str
    target: str
    outputs: list[Output]
    items: list[str]
    tokens: int | None
    fingerprints: dict[str, str]
    retrieval: str


@dataclass(frozen=True)
class Rollout:
    """One run of lmms-eval on one task.

    Attributes:
        task, model: as lmms-eval calls them.
        samples: the log.
        model_args: by name.
        generation: the arguments with which was generated.
        seeds: that lmms-eval was given.
        date: of the run, as lmms-eval writes it.
    """

    task: str
    model: str
    samples: Path
    model_args: dict[str, Any] = field(repr=False)
    generation: dict[str, Any] = field(repr=False)
    seeds: dict[str, Any] = field(repr=False)
    date: str = ""

    @property
    def knowledge(self) -> str:
        """The knowledge base that was asked for."""
        return str(self.model_args.get("knowledge", "micro"))

    @property
    def longest(self) -> int | None:
        """Tokens at which an output was cut off."""
        return self.generation.get("max_new_tokens")

    @property
    def about(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "task": self.task,
            "model": self.model,
            "model_args": self.model_args,
            "generation": self.generation,
            "seeds": self.seeds,
            "date": self.date,
            "log": self.samples.name,
            "sha256": sha256(self.samples),
        }

    def answers(self) -> Iterator[Answer]:
        """The log, line by line.

        Raises:
            UserError: a line is damaged, or not one of lmms-eval 0.7.
        """
        with self.samples.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield _answer(line, f"line {number} of {self.samples}")


def find(folders: Sequence[Path]) -> list[Rollout]:
    """All runs with a sample log below folders, the oldest first.

    Raises:
        UserError: there are none, or a result file is not one of lmms-eval 0.7.
    """
    logs = [path for folder in folders for path in sorted(folder.rglob(f"*{_SAMPLES}*.jsonl"))]
    results = [path for folder in folders for path in sorted(folder.rglob(f"*{_RESULTS}"))]
    where = ", ".join(map(str, folders))
    if not logs:
        found = f"{len(results)} results, but no sample logs" if results else "no rollouts"
        raise UserError(f"{found} (*{_SAMPLES}*.jsonl) under {where}; {_REMEDY}")
    silent = {path.name for path in results} - {_results(path).name for path in logs}
    if silent:
        log.warning("%s under %s have no sample logs: %s", len(silent), where, ", ".join(sorted(silent)))
    return sorted(map(_rollout, logs), key=lambda rollout: (rollout.samples.name, str(rollout.samples)))


def _results(samples: Path) -> Path:
    return samples.with_name(samples.name.partition(_SAMPLES)[0] + _RESULTS)


def _rollout(samples: Path) -> Rollout:
    from lmms_eval.utils import simple_parse_args_string

    task = samples.stem.partition(_SAMPLES)[2]
    path = _results(samples)
    if not path.is_file():
        raise UserError(f"{samples} has no {path.name} beside it, which says what made it; copy it there, or {_REMEDY}")
    run = read_json(path)
    try:
        config, given = run["config"], run["config"]["model_args"]
        return Rollout(
            task=task,
            model=config["model"],
            samples=samples,
            model_args=dict(simple_parse_args_string(given) if isinstance(given, str) else given or {}),
            generation=dict(run["configs"][task]["generation_kwargs"]),
            seeds={name: value for name, value in config.items() if name.endswith("_seed")},
            date=str(run.get("date", "")),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} lacks {error}: not a result file of lmms-eval 0.7; {_REMEDY}") from error


def _answer(line: str, where: str) -> Answer:
    try:
        sample = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is cut off or damaged ({error}); remove it, or {_REMEDY}") from error
    try:
        usage = (sample["token_counts"] or [None])[0] or {}
        answer = Answer(
            where=where,
            document=sample["doc_id"],
            asked=sample["input"],
            target=sample["target"],
            outputs=_outputs(sample["filtered_resps"], sample.get("resps")),
            items=[str(id_) for id_ in usage.get("retrieved") or ()],
            tokens=usage.get("output_tokens"),
            fingerprints=usage.get("fingerprints") or {},
            retrieval=usage.get("retrieval", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is no sample of lmms-eval 0.7 (it lacks {error}); {_REMEDY}") from error
    if not isinstance(answer.document, int) or not all(isinstance(o, str) for out in answer.outputs for o in out):
        raise UserError(f"{where} is no sample of lmms-eval 0.7 with a text as answer; {_REMEDY}")
    return answer


def _outputs(scored: Any, full: Any) -> list[Output]:
    """lmms-eval writes a single one without its list, and the full ones only where they differ from what it scored."""
    of_scorer = scored if isinstance(scored, list) else [scored]
    texts = of_scorer if full is None else full if isinstance(full, list) else [full]
    # Of repeats the scorer is given the first, in which reasoning is left out; the others are logged as they are.
    return [Output(text, of_scorer[i] if i < len(of_scorer) else text) for i, text in enumerate(texts)]
