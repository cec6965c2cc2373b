"""``--model comem``: the retrieved items in front of the question, as 8 continuous vectors each."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from comem_lmms import encoder, reference
from comem_lmms.errors import UserError
from comem_lmms.files import tensors_fingerprint
from comem_lmms.models.arguments import Arguments, MemoryArguments
from comem_lmms.models.knowledge import RetrievingModel
from comem_lmms.records import Hit
from comem_lmms.vlm import FrozenVLM, hidden_size, read_config


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
        made = (a.pretrained, config.model_type, hidden_size(config))
        self._is_reference = reference.is_reference(a.memory_encoder)
        if self._is_reference:
            reference.check(a.memory_encoder, *made)
            for name in ("min_pixels", "max_pixels", "revision"):
                if (value := getattr(a, name)) is not None:
                    raise UserError(f"{name}={value!r} does not reach a checkpoint of the reference; leave it out")
        else:
            encoder.check(a.memory_encoder, *made)
            if a.compat == "reference" or a.reader:
                raise UserError(
                    f"memory_encoder={a.memory_encoder!r} is not a checkpoint in the reference's layout, so it knows "
                    "neither compat=reference nor reader=; leave them out"
                )
        super().prepare_knowledge()

    def load_vlm(self) -> FrozenVLM:
        """Loads what encodes and what answers; one VLM is both, unless the encoder comes merged with its own."""
        a = self.arguments
        if self._is_reference:
            self.encoder, vlm = reference.load(
                a.memory_encoder,
                a.pretrained,
                a.compat or "reference",
                a.reader,
                dtype=a.dtype,
                device=self.placement,
                attention=a.attn_implementation,
            )
            # model_inf, or a text LLM: not the model that pretrained= names
            self.fingerprints["reader"] = tensors_fingerprint(vlm.model.state_dict())
        else:
            vlm = super().load_vlm()
            self.encoder = encoder.MemoryEncoder.load(a.memory_encoder, vlm)
        self.fingerprints["memory_encoder"] = self.encoder.fingerprint
        self.fingerprints["compat"] = "reference" if isinstance(vlm, reference.ReferenceVLM) else "clean"
        self._memories: dict[int, Tensor] = {}  # by row of the knowledge base, (8, D)
        return vlm

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
