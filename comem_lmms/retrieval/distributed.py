"""One index over several processes and machines: each holds a part, all are asked, the answers are merged.

accelerate launch --num_processes 4 -m ...
"""

from typing import TYPE_CHECKING

import faiss
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather

from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval.index import Index

if TYPE_CHECKING:
    from typing_extensions import Self


class ShardedIndex(Index):
    """An index of which every process searches its part.

    All processes must ask the same queries at the same time, and all get all answers.
    """

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search` of the whole."""
        process = PartialState()
        answers = [torch.from_numpy(answer)[None].to(process.device) for answer in super().search(vectors, k)]
        scores, numbers = (gather(answer).cpu().numpy() for answer in answers)  # (processes, n, k)
        return faiss.merge_knn_results(scores, numbers, keep_max=True)

    @classmethod
    def open(cls, knowledge: KnowledgeBase, device: str = "cpu", part: tuple[int, int] | None = None) -> "Self":
        """As `Index.open`; the part is that of this process."""
        process = PartialState(cpu=not torch.cuda.is_available())
        return super().open(knowledge, device, part or (process.process_index, process.num_processes))
