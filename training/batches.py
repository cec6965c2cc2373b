"""Which samples make a step, and what the models read of them: numbers in, tokenized batches out.

The order is a pure function of the lengths, the seed and the epoch. A step's samples do not depend on the number of
processes or on how many samples each takes at a time, so neither does what is learnt.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
from comem_lmms.training.data import Sample, TrainingData
from torch import Tensor
from transformers import BatchFeature

from comem_lmms.encoder import MemoryEncoder
from comem_lmms.errors import UserError, one_line
from comem_lmms.records import KnowledgeItem
from comem_lmms.vlm import Chat, FrozenVLM

SORTED = 32  # steps whose samples are sorted by length together: little padding, and still a different order each epoch
AHEAD = 2  # steps made ready while another is computed
# Stand in where no sample of a batch has an item, so that all processes do the same: each encodes, reads and goes back
# through both. Nothing is learnt from them.
NOTHING = KnowledgeItem("", "", ".")
NO_QUESTION: Chat = [{"role": "user", "content": [{"type": "text", "text": "."}]}]

T, R = TypeVar("T"), TypeVar("R")


def steps(numbers: Sequence[int], lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The samples of each step of an epoch: every sample once, samples of like length together, in random order.

    Args:
        numbers, lengths: of the samples.
        size: samples a step; the last one has what is left.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(numbers))
    full: list[list[int]] = []
    rest: list[list[int]] = []
    for start in range(0, len(order), SORTED * size):
        chunk = sorted(order[start : start + SORTED * size], key=lambda i: -lengths[i])
        for first in range(0, len(chunk), size):
            batch = [numbers[i] for i in chunk[first : first + size]]
            (full if len(batch) == size else rest).append(batch)
    return [full[i] for i in rng.permutation(len(full))] + rest


def in_order(numbers: Sequence[int], size: int) -> list[list[int]]:
    """The samples of each step of an epoch, in the order they are in."""
    return [list(numbers[first : first + size]) for first in range(0, len(numbers), size)]


def share(batch: Sequence[int], size: int, process: int, processes: int, passes: int) -> list[list[int]]:
    """What a process takes of a step, ``size`` at a time, in ``passes`` turns; the last may be empty."""
    starts = [(turn * processes + process) * size for turn in range(passes)]
    return [list(batch[start : start + size]) for start in starts]


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many, at even distances: tasks and languages lie one behind the other."""
    n = min(most, len(numbers))
    return [numbers[i * len(numbers) // n] for i in range(n)]


class Batch(NamedTuple):
    """What the models read of some samples.

    Attributes:
        items: tokenized, each once (n, L).
        rows: of the items in the knowledge base; empty where they are `NOTHING`.
        places: of each sample's items among them, the best last: next to the question.
        question: tokenized questions and answers, (B, L'); without ``rows`` `NO_QUESTION` is one more, the last.
        is_answer: where the answers are, (B, L').
        left_out: why samples are not in it, by name.
    """

    items: BatchFeature
    rows: list[int]
    places: list[list[int]]
    question: BatchFeature
    is_answer: Tensor
    left_out: dict[str, str]

    @property
    def tokens(self) -> int:
        """That are read, of items and questions; without padding."""
        return sum(int(inputs["attention_mask"].sum()) for inputs in (self.items, self.question))


class Collator:
    """Makes batches, on the models' device.

    Args:
        reader: what answers.
    """

    def __init__(self, data: TrainingData, encoder: MemoryEncoder, reader: FrozenVLM) -> None:
        self.data, self.encoder, self.reader = data, encoder, reader
        self._one_at_a_time = Lock()  # a tokenizer refuses two threads

    def __call__(self, numbers: Sequence[int]) -> Batch:
        """The batch of samples; those that cannot be read or are too long are left out, and named."""
        with self._one_at_a_time:
            return self._collate(numbers)

    def _collate(self, numbers: Sequence[int]) -> Batch:
        left_out: dict[str, str] = {}
        samples: list[Sample] = []
        items: dict[int, KnowledgeItem] = {}
        for number in numbers:
            try:
                sample = self.data[number]
                items |= zip(sample.rows, self.data.items(sample.rows), strict=True)
                samples.append(sample)
            except UserError as error:
                left_out[self.data.name(number)] = str(error)
        return self._fitting(samples, items, left_out)

    def _fitting(self, samples: list[Sample], items: dict[int, KnowledgeItem], left_out: dict[str, str]) -> Batch:
        """The batch of the samples that the models take."""
        try:
            batch = self._lay_out(samples, items, left_out)
        except (UserError, ValueError) as error:  # a processor's, e.g. for an image 200 times as wide as high
            if len(samples) == 1:
                return self._fitting([], items, {**left_out, samples[0].name: one_line(error)})
            alone = [self._fitting([sample], items, {}) for sample in samples]
            refused = {name: reason for batch in alone for name, reason in batch.left_out.items()}
            if not refused:
                raise
            return self._fitting([s for s in samples if s.name not in refused], items, {**left_out, **refused})
        if too_long := self._too_long(samples, batch):
            left = [sample for sample in samples if sample.name not in too_long]
            return self._fitting(left, items, {**left_out, **too_long})
        return batch

    def _lay_out(self, samples: list[Sample], items: dict[int, KnowledgeItem], left_out: dict[str, str]) -> Batch:
        rows = list(dict.fromkeys(row for sample in samples for row in sample.rows))
        places = [[rows.index(row) for row in reversed(sample.rows)] for sample in samples]
        read = self.encoder.tokenize([items[row] for row in rows] or [NOTHING])
        asked: list[tuple[Chat, str]] = [(sample.chat, sample.answer) for sample in samples]
        asked += [] if rows else [(NO_QUESTION, ".")]
        answered = self.reader.prepare_answered([chat for chat, _ in asked], [answer for _, answer in asked])
        return Batch(read, rows, places, *answered, left_out)

    def _too_long(self, samples: list[Sample], batch: Batch) -> dict[str, str]:
        """Which samples have more tokens than a model has positions, in their question or in an item."""
        found: dict[str, str] = {}
        of_items = batch.items["attention_mask"].sum(1).tolist()
        of_questions = batch.question["attention_mask"].sum(1).tolist()[: len(samples)]
        for sample, places, length in zip(samples, batch.places, of_questions, strict=True):
            longest = max((of_items[place] for place in places), default=0)
            whole = length + self.encoder.n_vectors * len(places)
            for what, n, vlm in (("an item", longest, self.encoder.vlm), ("question and answer", whole, self.reader)):
                if vlm.positions and n > vlm.positions:
                    found[sample.name] = f"{what} of {n} tokens, the model has {vlm.positions} positions"
        return found


def prefixes(memories: Tensor, batch: Batch) -> list[Tensor]:
    """The memories (n, n_vectors, D) of a batch's items in front of each question, (n_vectors * k, D)."""
    places = batch.places if batch.rows else [*batch.places, [0]]
    return [memories[of_one].flatten(0, 1) for of_one in places]


def ahead(function: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
    """What a function gives for each argument, computed in a thread a few arguments ahead."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(1)
    try:
        for argument in arguments:
            waiting.append(pool.submit(function, argument))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
