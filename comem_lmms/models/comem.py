"""``--model comem``: the retrieved items in front of the question, as 8 continuous vectors each."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from comem_lmms.errors import UserError
from comem_lmms.fingerprints import checkpoint_fingerprint
from comem_lmms.memory import MemoryBank, fill, prefix
from comem_lmms.models.arguments import Arguments, MemoryArguments
from comem_lmms.models.knowledge import RetrievingModel
from comem_lmms.models.loading import Parts
from comem_lmms.records import Hit
from comem_lmms.vlm import FrozenVLM


class CoMEM(RetrievingModel):
    """Encodes each item once, or reads its memory from a bank, and prepends the memories of a question's items."""

    name = "comem"
    arguments_type: ClassVar[type[Arguments]] = MemoryArguments
    arguments: MemoryArguments
    takes_base = False  # the memory enters the embeddings, which only our own reader reaches

    def prepare_knowledge(self) -> None:
        """Checks what there is against the VLM's configuration, then opens the knowledge base."""
        self.parts = Parts(self.arguments, self.placement)
        if self.parts.source is None and self.parts.bank is None:
            raise UserError(
                f"pretrained={self.arguments.pretrained!r} needs memory_encoder= (made for it) or memory_bank=; "
                "give one, e.g. memory_encoder=FOLDER"
            )
        super().prepare_knowledge()

    def load_vlm(self) -> FrozenVLM:
        """Loads what answers, and what encodes unless a bank may make it needless."""
        vlm = self.parts.reader
        if self.arguments.reader:  # any other reader is of the memory encoder's files, or what pretrained= names
            self.fingerprints["reader"] = checkpoint_fingerprint(self.arguments.reader)
        if self.parts.bank is None:
            _ = self.parts.encoder
        self.memories = self.parts.memories()
        self._check_positions(vlm)
        self.fingerprints["memory_encoder"] = self.parts.fingerprint["memory_encoder"]
        self.fingerprints["compat"] = self.parts.compat
        if isinstance(self.memories, MemoryBank):
            self.fingerprints["bank"] = self.memories.info.fingerprint
        return vlm

    def _check_positions(self, vlm: FrozenVLM) -> None:
        k, n = self.arguments.top_k, self.parts.n_vectors
        if vlm.positions and k * n >= vlm.positions:
            raise UserError(
                f"top_k={k} memories of {n} vectors leave no room for a question in the {vlm.positions} positions of "
                f"{vlm.name!r}; lower top_k"
            )

    @property
    def bank_bytes(self) -> int | None:
        """What the memories of the bank take on disk, those that this run needs and all others."""
        return self.memories.nbytes if isinstance(self.memories, MemoryBank) else None

    def encode(self, hits: Sequence[Sequence[Hit]]) -> None:
        """Encodes the items that have no memory yet."""
        rows = sorted({hit.row for found in hits for hit in found})
        self.memories.refresh()
        missing = [row for row in rows if self.knowledge.key(row) not in self.memories]
        if not missing:
            return
        if self.parts.source is None:
            raise UserError(
                f"memory bank {self.arguments.memory_bank} lacks {len(missing)} of the {len(rows)} items of knowledge "
                f"base {self.knowledge.folder} that are asked for, first {self.knowledge.id(missing[0])!r} (a bank "
                "goes by an item's content, not by its id); run `comem-lmms memorize` over that base, or give "
                "memory_encoder= too"
            )
        fill(
            self.memories, self.knowledge, missing, self.parts.encoder, self.arguments.batch_size, quiet=self.rank != 0
        )

    def prefix(self, hits: Sequence[Hit]) -> Tensor:
        """The memories, (8 * k, D), the best item's last: next to the question."""
        if not hits:
            return torch.empty(0, self.vlm.hidden_size, device=self.vlm.device)
        return prefix(self.memories, (self.knowledge.key(hit.row) for hit in reversed(hits))).to(self.vlm.device)
