"""What must not be trained on: the documents of evaluation tasks in, their overlaps with a question out.

Three ways in which a question overlaps with one of an evaluation: it shows the same pixels, whatever the format of the
file; its image looks alike, as after compressing or resizing; it asks the same, up to case, punctuation and spaces.
"""

import logging
import unicodedata
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

from comem_lmms.errors import UserError
from comem_lmms.harness import Documents, documents
from comem_lmms.queries import key_of
from comem_lmms.records import Query
from comem_lmms.scoring.normalise import squad

log = logging.getLogger(__name__)

Way = Literal["image", "lookalike", "question"]
WAYS: tuple[Way, ...] = get_args(Way)
# Of 256 comparisons of neighbouring pixels: compression and resizing change fewer, other images more.
NEAR = 12
_SIDE = 16
_STEP = 8  # of 255: what neighbours differ by at least, or compression would decide the comparisons in flat areas
_ONES = np.array([number.bit_count() for number in range(256)], np.uint8)
# By the name of its data set, a task with all questions of a benchmark, where that is not the name of the task.
_TASKS = {"cvqa": "cvqa_all", "aokvqa": "aokvqa_da"}


class Evaluation:
    """The images and questions of evaluation tasks.

    Attributes:
        documents: how many there are, by task.
        not_checked: data sets that could not be loaded, with what is to be done.
    """

    def __init__(self) -> None:
        self.documents: dict[str, int] = {}
        self.not_checked: dict[str, str] = {}
        self._images: dict[bytes, set[str]] = {}
        self._questions: dict[str, set[str]] = {}
        self._looks: dict[bytes, set[str]] = {}
        self._table: np.ndarray | None = None

    @classmethod
    def of(cls, names: Iterable[str], include_path: str | None = None) -> "Evaluation":
        """Of tasks of lmms-eval.

        Raises:
            UserError: one cannot be loaded, or has an image that cannot be read.
        """
        evaluation = cls()
        for task in documents(list(names), include_path=include_path):
            evaluation.add(task)
        return evaluation

    @classmethod
    def prepared(cls) -> "Evaluation":
        """Of the eight benchmarks, as far as their data is on this machine; what is not, is noted and said."""
        from comem_lmms.data import sources
        from comem_lmms.data.check import check

        evaluation = cls()
        for status in check(source for name, source in sources.SOURCES.items() if not name.endswith("_train")):
            if status.state != "ready":
                evaluation.not_checked[status.name] = f"its data is {status.state}; run: {status.command}"
                continue
            try:
                found = documents([_TASKS.get(status.name, status.name)])
            except UserError as error:
                evaluation.not_checked[status.name] = str(error)
                continue
            for one in found:
                evaluation.add(one)
        if evaluation.not_checked:
            log.warning(
                "NOT compared with %s, since their data is not ready here (`comem-lmms data check`)",
                ", ".join(evaluation.not_checked),
            )
        return evaluation

    def add(self, task: Documents) -> None:
        """Reads the documents of a task; each image is decoded."""
        self.documents[task.task] = len(task)
        for number in tqdm(range(len(task)), desc=f"Reading {task.task}", unit="document", leave=False):
            query = task.query(number)
            if (key := key_of(query, "clip")) is not None and query.image is not None:
                self._images.setdefault(key, set()).add(task.task)
                self._looks.setdefault(look(query.image).tobytes(), set()).add(task.task)
            if words := wording(query.text):
                self._questions.setdefault(words, set()).add(task.task)
        self._table = None

    def overlaps(self, query: Query) -> dict[Way, set[str]]:
        """The tasks with which a question overlaps, by the way in which it does; an image the same is no look-alike."""
        found: dict[Way, set[str]] = {"question": self._questions.get(wording(query.text), set())}
        if query.image is not None:
            key = key_of(query, "clip")
            assert key is not None
            found["image"] = self._images.get(key, set())
            found["lookalike"] = self._like(query.image) - found["image"]
        return {way: tasks for way in WAYS if (tasks := found.get(way, set()))}

    def _like(self, image: Image.Image) -> set[str]:
        if not self._looks:
            return set()
        if self._table is None:
            self._table = np.stack([np.frombuffer(row, np.uint8) for row in self._looks])
        own = look(image)
        # A plain image has few ones, and nearly as few differences from any other plain one.
        near = _ONES[self._table ^ own].sum(1) <= min(NEAR, int(_ONES[own].sum()) // 4 - 1)
        return {task for row in self._table[near] for task in self._looks[row.tobytes()]}


def wording(question: str) -> str:
    """A question without case, punctuation, English articles and the width of its letters."""
    return squad(unicodedata.normalize("NFKC", question))


def look(image: Image.Image) -> np.ndarray:
    """(32,) uint8: a difference hash, for every two neighbours in 16 rows of 17 grey pixels whether it gets lighter."""
    grey = np.asarray(image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] - grey[:, :-1] >= _STEP)
