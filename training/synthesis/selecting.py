"""Which answers become training samples: rollouts and evaluations in, a folder of training data out.

The paper keeps what Qwen2.5-VL itself answered rightly under vanilla RAG with three items, the whole chain of thought
(section on training data). Every answer has one outcome: it is kept, or dropped for the first `REASONS` that holds.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from comem_lmms.training.synthesis.evaluation import WAYS, Evaluation, wording
from comem_lmms.training.synthesis.rollouts import Answer, Output, Rollout, find
from comem_lmms.training.synthesis.store import Sample, write
from PIL import Image
from tqdm import tqdm

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.harness import Documents, documents
from comem_lmms.images import IMAGE_ERRORS, images_of, open_image, strictly
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.queries import key_of
from comem_lmms.records import Query

REASONS = (
    "empty",
    "without items",
    "with fewer items",
    "cut off",
    "wrong",
    "with several images",
    "overlap with evaluation",
    "repeated",
)
_LANGUAGE = "en"  # of tasks that do not tell


@dataclass(frozen=True)
class Rules:
    """What is kept.

    Attributes:
        keep: right answers only, or all.
        metric: by which an answer is judged; by default each task's first.
        threshold: an answer is right from this score on.
        per_question: different answers to one question; the first ones count.
        min_items: knowledge items of an answer, at least; by default as many as any other answer of the log was given.
        overlap: drop what shows an image of an evaluation, or what asks one of its questions as well. A question
            without an image is always dropped by its words.
    """

    keep: Literal["correct", "all"] = "correct"
    metric: str | None = None
    threshold: float = 1.0
    per_question: int = 1
    min_items: int | None = None
    overlap: Literal["image", "either"] = "image"


def from_samples(
    folders: Sequence[Path],
    out: Path,
    rules: Rules,
    against: Sequence[str] | None = None,
    knowledge: str | None = None,
    include_path: str | None = None,
) -> dict[str, Any]:
    """Makes training data of rollouts and returns its manifest.

    Args:
        folders: with the logs of lmms-eval, below any depth.
        out: must not be there.
        against: tasks that are not to be trained on; by default those of the eight benchmarks, as far as their data is
            on this machine.
        knowledge: folder of the knowledge base; by default what the rollouts name.
        include_path: a folder with more tasks.

    Raises:
        UserError: there are no rollouts, they are damaged, of other data or of several knowledge bases, or nothing is
            left.
    """
    rollouts = find(folders)
    if out.exists():  # before minutes of work
        raise UserError(f"{out} is there already; remove it, or name another folder")
    name, base = _knowledge(rollouts, knowledge)
    tasks = {key: _documents(*key, include_path) for key in {(rollout.task, rollout.model) for rollout in rollouts}}
    metrics = {key: _metric(task, rules.metric) for key, task in tasks.items()}
    evaluation = Evaluation.prepared() if against is None else Evaluation.of(against, include_path)
    selection = _Selection(rules, evaluation, base.fingerprint)

    def samples() -> Iterator[Sample]:
        for rollout in rollouts:
            key = rollout.task, rollout.model
            yield from selection.samples(rollout, tasks[key], metrics[key])

    def about() -> dict[str, Any]:
        folder = name if name == micro.NAME else str(base.folder.resolve())
        return {"from": "samples", "knowledge": {"fingerprint": base.fingerprint, "folder": folder}, **selection.about}

    return write(out, samples(), about)


class _Selection:
    """Goes through rollouts, and counts."""

    def __init__(self, rules: Rules, evaluation: Evaluation, knowledge: str) -> None:
        self._rules, self._evaluation, self._knowledge = rules, evaluation, knowledge
        self._counts: dict[str, Counter[str]] = {}
        self._overlaps: dict[str, Counter[str]] = {task: Counter() for task in evaluation.documents}
        self._kept: dict[tuple[bytes | None, str], set[str]] = {}  # by question: its answers
        self._of: dict[tuple[bytes | None, str], tuple[str, int]] = {}  # by question: task and document
        self._rollouts: list[dict[str, Any]] = []

    @property
    def about(self) -> dict[str, Any]:
        """For the manifest."""
        counts = {
            task: {
                "answers": counted.total(),
                "kept": counted["kept"],
                "dropped": {reason: counted[reason] for reason in REASONS if counted[reason]},
            }
            for task, counted in self._counts.items()
        }
        against = {
            "documents": self._evaluation.documents,
            "overlaps": {task: {way: found[way] for way in WAYS} for task, found in self._overlaps.items()},
            "not_checked": self._evaluation.not_checked,
        }
        return {"counts": counts, "rules": vars(self._rules), "against": against, "rollouts": self._rollouts}

    def samples(self, rollout: Rollout, task: Documents, metric: str) -> Iterator[Sample]:
        """What is kept of one run."""
        items = self._items(rollout)
        counted = self._counts.setdefault(rollout.task, Counter())
        told: Counter[str] = Counter()
        fingerprints: dict[str, set[str]] = {}
        for answer in tqdm(rollout.answers(), desc=f"Reading {rollout.samples.name}", unit="answer", leave=False):
            _check(answer, task)
            for part, value in {**answer.fingerprints, "kind": answer.retrieval}.items():
                fingerprints.setdefault(part, set()).add(value)
            for number, output in enumerate(answer.outputs):
                cut = number == 0 and answer.tokens is not None and answer.tokens >= (rollout.longest or 1 << 30)
                sample, reason = self._judge(answer, output, task, metric, items, cut)
                counted[reason] += 1
                told[reason] += 1
                if sample is not None:
                    yield sample
        self._rollouts.append(
            {
                **rollout.about,
                "metric": metric,
                "items": items,
                "fingerprints": {part: sorted(values) for part, values in sorted(fingerprints.items())},
                "answers": dict(told),
            }
        )

    def _items(self, rollout: Rollout) -> int:
        """How many an answer must have been given; a first reading of the log, which also checks its knowledge base."""
        most = 1
        for answer in rollout.answers():
            most = max(most, len(answer.items))
            if (given := answer.fingerprints.get("knowledge")) and not self._knowledge.startswith(given):
                raise UserError(
                    f"{answer.where} was answered with knowledge base {given}, not {self._knowledge[:16]}; give that "
                    "base as --knowledge, and rollouts of one base at a time"
                )
        return most if self._rules.min_items is None else self._rules.min_items

    def _judge(
        self, answer: Answer, output: Output, task: Documents, metric: str, items: int, cut: bool
    ) -> tuple[Sample | None, str]:
        """The sample that an output becomes, and why not. What costs most comes last: its image is read."""
        if not output.text.strip():
            return None, "empty"
        if not answer.items:
            return None, "without items"
        if len(answer.items) < items:
            return None, "with fewer items"
        if cut:
            return None, "cut off"
        if self._rules.keep == "correct" and _score(answer, output, task, metric) < self._rules.threshold:
            return None, "wrong"
        with strictly():  # half an image is nothing to learn from
            query = task.query(answer.document)
        if len(images_of(query.messages)) > 1:
            return None, "with several images"
        if self._is_evaluation(query):
            return None, "overlap with evaluation"
        if self._is_repeated(query, (task.task, answer.document), output.text):
            return None, "repeated"
        return _sample(answer, output, task, query), "kept"

    def _is_evaluation(self, query: Query) -> bool:
        found = self._evaluation.overlaps(query)
        for way, tasks in found.items():
            for task in tasks:
                self._overlaps[task][way] += 1
        by_words = self._rules.overlap == "either" or query.image is None
        return "image" in found or "lookalike" in found or (by_words and "question" in found)

    def _is_repeated(self, query: Query, document: tuple[str, int], text: str) -> bool:
        """Whether the question has answers enough, or this one, or is one of another document with the same image."""
        key = key_of(query, "clip"), wording(query.text)
        answers = self._kept.setdefault(key, set())
        other = self._of.setdefault(key, document) != document
        if other or text in answers or len(answers) >= self._rules.per_question:
            return True
        answers.add(text)
        return False


def _knowledge(rollouts: Sequence[Rollout], given: str | None) -> tuple[str, KnowledgeBase]:
    name = given or rollouts[0].knowledge
    folder = micro.resolve(name, "knowledge")
    if given is None and not Path(folder).is_dir():
        raise UserError(f"the knowledge base of the rollouts, {name}, is not to be found from here; give --knowledge")
    return name, KnowledgeBase.open(folder)


def _documents(task: str, model: str, include_path: str | None) -> Documents:
    (found,) = documents([task], include_path=include_path, model=model)
    return found


def _metric(task: Documents, asked: str | None) -> str:
    metric = asked or task.metrics[0]
    if metric not in task.metrics:
        raise UserError(f"task {task.task} has no metric {metric!r}; it has {', '.join(task.metrics)}")
    return metric


def _check(answer: Answer, task: Documents) -> None:
    """Prompt and right answer tell whether a document is the one that was asked."""
    number = answer.document
    if not 0 <= number < len(task):
        raise UserError(
            f"{answer.where} is of document {number}, but task {task.task} has {len(task)} here; give the data that "
            "was asked"
        )
    # What comes before the prompt, such as a description, is in the log, but no chat with an image shows it.
    for what, told, here in (
        ("the right answer", answer.target, task.target(number)),
        ("the prompt", answer.asked[-len(asked) :] if (asked := task.asked(number)) else "", asked),
    ):
        if told != here:
            raise UserError(
                f"{answer.where} has {what} {told!r:.80}, but document {number} of task {task.task} has {here!r:.80}; "
                "give the data and the task that were asked"
            )


def _score(answer: Answer, output: Output, task: Documents, metric: str) -> float:
    score = task.scores(answer.document, output.scored).get(metric)
    if not isinstance(score, int | float):
        raise UserError(
            f"metric {metric} of task {task.task} is no number for a single answer, but {type(score).__name__}; give "
            f"another --metric of {', '.join(task.metrics)}"
        )
    return score


def _sample(answer: Answer, output: Output, task: Documents, query: Query) -> Sample:
    words = [part["text"] for turn in query.messages for part in turn["content"] if part["type"] == "text"]
    return Sample(
        image=None if query.image is None else _file(task, answer.document, query.image),
        prompt="\n".join(words),
        answer=output.text,
        item_ids=answer.items,
        task=task.task,
        document=answer.document,
        language=task.facts(answer.document).language or _LANGUAGE,
    )


def _file(task: Documents, number: int, image: Image.Image) -> bytes:
    """The file that the data set keeps of an image, if whoever opens it gets these pixels; else a PNG of them.

    A photo as PNG is some five times as large as the JPEG that it comes from.
    """
    for content in task.image_files(number):
        with suppress(*IMAGE_ERRORS):
            if all(seen.size == image.size and seen.tobytes() == image.tobytes() for seen in _seen(content)):
                return content
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def _seen(content: bytes) -> Iterator[Image.Image]:
    """A file as we open it, and as `datasets` does, which turns photos as their EXIF data say."""
    import datasets

    yield open_image(content)
    yield datasets.Image().decode_example({"bytes": content, "path": None}).convert("RGB")
