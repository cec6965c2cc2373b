"""Early warnings: losses and memories of a training in, a word in time out."""

import logging
import math

import torch
from torch import Tensor

from comem_lmms.errors import UserError

log = logging.getLogger(__name__)

SAME = 0.999  # mean cosine at which memories of different items count as equal
EXPLODED = 10  # times the norm of the first memories
SETTLED = 100  # steps after which memories should differ; at first all items get the same prompt, so to speak


class Watch:
    """Looks at every step; each warning is given once.

    Attributes:
        norm: mean norm of the memory vectors at the last step.
        cosine: mean cosine between memories of different items at the last step; None where there was one item.
    """

    def __init__(self) -> None:
        self.norm = math.nan
        self.cosine: float | None = None
        self._first: float | None = None
        self._warned: set[str] = set()

    def look(self, step: int, loss: float, gradient: float, memories: Tensor) -> None:
        """At the loss, the norm of the gradient and memories (n, n_vectors, D) of a step that is about to be taken.

        Raises:
            UserError: loss or gradient are not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            raise UserError(
                f"step {step} was not taken, since its loss is {loss:.3g} and the norm of its gradient {gradient:.3g}; "
                "train again with a lower lr=, or with dtype=float32 (the last checkpoint is a memory encoder, too)"
            )
        self.norm = memories.float().norm(dim=-1).mean().item()
        self.cosine = mean_cosine(memories)
        self._first = self._first or self.norm
        if self.norm > EXPLODED * self._first:
            self._warn("norm", "the norm of memories has grown from %.3g to %.3g; lower lr", self._first, self.norm)
        if step > SETTLED and self.cosine is not None and self.cosine > SAME:
            self._warn(
                "cosine",
                "memories of different items are nearly equal (mean cosine %.4f at step %s); if that stays so, the "
                "encoder learns nothing of items: begin with shorter ones, or change lr",
                self.cosine,
                step,
            )

    def _warn(self, kind: str, message: str, *values: float) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning(message, *values)


def mean_cosine(memories: Tensor) -> float | None:
    """Between memories (n, n_vectors, D) of different items, pair by pair; None for less than two."""
    if len(memories) < 2:
        return None
    unit = torch.nn.functional.normalize(memories.float().flatten(1), dim=1)
    n = len(unit)
    return ((unit @ unit.T).sum().item() - n) / (n * (n - 1))
