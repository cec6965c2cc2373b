"""One index over several processes and machines: each holds a part, all are asked, the answers are merged.

accelerate launch --multi_gpu --num_processes 4 -m comem_lmms.cli retrieve ...
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather

from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval.index import Index

if TYPE_CHECKING:
    from typing_extensions import Self

# How long processes wait for the main one, which may read data sets between two searches.
PATIENCE = timedelta(days=1)


class ShardedIndex(Index):
    """An index of which every process searches its part: the main process asks, the others `serve`."""

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search` of the whole; for the main process, while the others serve."""
        _told((vectors, k))
        return self._merged(vectors, k)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """In the main process: the others serve within this context, and are let go at its end."""
        yield
        _told(None)  # after an error whoever launched the processes ends them

    def serve(self) -> None:
        """In any other process: searches for what the main one asks, until it is done."""
        while (told := _told(None)) is not None:
            self._merged(*told)

    def _merged(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        device = PartialState().device
        answers = [torch.from_numpy(answer)[None].to(device) for answer in super().search(vectors, k)]
        scores, numbers = (gather(answer).cpu().numpy() for answer in answers)  # (processes, n, k)
        return faiss.merge_knn_results(scores, numbers, keep_max=True)

    @classmethod
    def open(cls, knowledge: KnowledgeBase, device: str = "cpu", part: tuple[int, int] | None = None) -> "Self":
        """As `Index.open`; the part is that of this process, and so is the GPU if ``device`` is "cuda"."""
        process = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        if device == "cuda":
            device = str(process.device)
        return super().open(knowledge, device, part or (process.process_index, process.num_processes))


def _told(what: Any) -> Any:
    """What the main process says."""
    return broadcast_object_list([what])[0]
