"""``--model comem``: the retrieved items in front of the question, as 8 continuous vectors each."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from comem_lmms import encoder
from comem_lmms.models.arguments import Arguments, MemoryArguments
from comem_lmms.models.knowledge import RetrievingModel
from comem_lmms.records import Hit
from comem_lmms.vlm import hidden_size, read_config


class CoMEM(RetrievingModel):
    """Encodes each item once and prepends the memories of a question's items."""

    name = "comem"
    arguments_type: ClassVar[type[Arguments]] = MemoryArguments
    arguments: MemoryArguments
    takes_base = False  # the memory enters the embeddings, which only our own reader reaches

    def prepare_knowledge(self) -> None:
        """Checks the memory encoder against the VLM's configuration, then opens the knowledge base."""
        a = self.arguments
        config = read_config(a.pretrained, a.revision)
        encoder.check(a.memory_encoder, a.pretrained, config.model_type, hidden_size(config))
        super().prepare_knowledge()

    def prepare_memory(self) -> None:
        """Loads the memory encoder onto the VLM."""
        self.encoder = encoder.MemoryEncoder.load(self.arguments.memory_encoder, self.vlm)
        self.fingerprints["memory_encoder"] = self.encoder.fingerprint
        self._memories: dict[int, Tensor] = {}  # by row of the knowledge base, (8, D)

    def encode(self, hits: Sequence[Sequence[Hit]]) -> None:
        """Encodes the items that have no memory yet."""
        rows = sorted({hit.row for found in hits for hit in found} - self._memories.keys())
        size = self.arguments.batch_size
        with tqdm(total=len(rows), desc="Encoding", unit="item", disable=self.rank != 0) as bar:
            for i in range(0, len(rows), size):
                batch = rows[i : i + size]
                memories = self.encoder.encode([self.knowledge[row] for row in batch])  # (size, 8, D)
                self._memories.update(zip(batch, memories.cpu(), strict=True))
                bar.update(len(batch))

    def prefix(self, hits: Sequence[Hit]) -> Tensor:
        """The memories, (8 * k, D), the best item's last: next to the question."""
        if not hits:
            return torch.empty(0, self.vlm.hidden_size, device=self.vlm.device)
        return torch.cat([self._memories[hit.row] for hit in reversed(hits)]).to(self.vlm.device)
