"""A checkpoint in the reference's layout in, a memory encoder in our own format out, and what was lost on the way.

The encoder's weights are the base VLM's plus what its adapter of low rank changed, so a truncated singular value
decomposition of the difference gives the adapter back: a small file on one copy of the base, not two merged copies.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from tqdm import tqdm

from comem_lmms.encoder import CONFIG, MemoryEncoder, lora_targets
from comem_lmms.errors import UserError
from comem_lmms.reference.checkpoint import Checkpoint, change_of, todays_name
from comem_lmms.vlm import FrozenVLM


@dataclass
class Report:
    """What a conversion found; errors are relative, in the Frobenius norm.

    Attributes:
        rank: of the adapter.
        adapted: by weight, the part of its change that the adapter does not hold.
        unadapted: by weight, the size of its change, dropped because no adapter reaches it.
        reader: largest absolute difference between ``model_inf`` and the base; None without ``model_inf``. Other than 0
            it means that training changed the reader (quirk 3), and what answers will then be another model.
    """

    rank: int
    adapted: dict[str, float] = field(default_factory=dict)
    unadapted: dict[str, float] = field(default_factory=dict)
    reader: float | None = None

    def __str__(self) -> str:
        worst = max(self.adapted, key=self.adapted.__getitem__, default=None)
        lines = [f"adapter of rank {self.rank} on {len(self.adapted)} weights"]
        if worst:
            lines.append(f"of their changes at most {self.adapted[worst]:.2%} is lost ({worst})")
        lines += [f"dropped: the change of {name}, {size:.2e} of its size" for name, size in self.unadapted.items()]
        if self.reader is None:
            lines.append("the checkpoint has no model_inf; the base VLM reads")
        elif self.reader == 0:
            lines.append("dropped: model_inf, which equals the base VLM")
        else:
            lines.append(f"dropped: model_inf, which differs from the base VLM by up to {self.reader:.2e} (quirk 3)")
        return "\n".join(lines)


def convert(source: str, base: str, out: str | Path, rank: int = 16, alpha: int = 32) -> Report:
    """Writes a memory encoder for ``base`` to ``out``; `Report` says how true it is.

    Args:
        source: folder or Hub id of the checkpoint.
        base: the VLM it was tuned from.
        rank, alpha: of the adapter; the reference's are 16 and 32.

    Raises:
        UserError: the checkpoint is no such thing, or of another shape than the base.
    """
    if rank < 1:
        raise UserError(f"rank={rank} leaves no adapter; give 16, as the reference trains, or another number above 0")
    _check_out(Path(out))
    checkpoint = Checkpoint(source)
    vlm = FrozenVLM.load(base, dtype="auto", device="cpu")
    plain = vlm.model.state_dict()
    _check_covered(checkpoint, plain, source, base)
    lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.05, target_modules=lora_targets(vlm))
    adapted = get_peft_model(vlm.model, lora)
    layers = {name: module for name, module in vlm.model.named_modules() if hasattr(module, "lora_A")}
    report = Report(rank, reader=checkpoint.reader_difference(plain))
    for name in tqdm(checkpoint.encoder_names, desc="Converting", unit="weight"):
        ours = todays_name(name)
        change = change_of(checkpoint[name], plain[ours])
        if not change.any():
            continue
        layer = layers.get(ours.removesuffix(".weight"))
        if layer is None:
            report.unadapted[ours] = (change.norm() / plain[ours].float().norm()).item()
        else:
            report.adapted[ours] = _factorise(change, layer, rank, alpha / rank)
    encoder = MemoryEncoder(vlm, adapted.eval(), checkpoint.resampler())
    encoder.resampler = checkpoint.resampler()  # not rounded to the VLM's dtype
    encoder.save(out)
    return report


def _check_out(out: Path) -> None:
    """Raises UserError now rather than after the work."""
    if out.is_file():
        raise UserError(f"{out} is a file; give a new folder")
    if out.exists() and any(out.iterdir()) and not (out / CONFIG).is_file():
        raise UserError(f"{out} is not empty and holds no memory encoder; give a new folder")


def _check_covered(checkpoint: Checkpoint, plain: dict[str, Any], source: str, base: str) -> None:
    """Raises UserError unless the checkpoint has the weights of the base, in the same shapes."""
    given = {todays_name(name): name for name in checkpoint.encoder_names}
    for ours, name in given.items():
        if ours not in plain or plain[ours].shape != checkpoint[name].shape:
            raise UserError(f"{source!r} has {name}, but base={base!r} not, or in another shape; give its own base")
    there = {plain[ours].data_ptr() for ours in given}
    missing = [name for name, weight in plain.items() if weight.data_ptr() not in there]  # tied ones are there
    if missing:
        raise UserError(
            f"{source!r} lacks {len(missing)} weights of base={base!r}, the first {missing[0]}; copy it again"
        )


def _factorise(change: Tensor, layer: Any, rank: int, scale: float) -> float:
    """Puts the best approximation of a rank into a layer's adapter; returns what it misses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the algorithm is randomised
        u, s, v = torch.svd_lowrank(change, q=min(rank + 8, *change.shape), niter=4)
    u, s, v = u[:, :rank], s[:rank], v[:, :rank]
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        down.zero_()[: len(s)] = s.sqrt()[:, None] * v.T
        up.zero_()[:, : len(s)] = u * s.sqrt() / scale
    return ((change - (u * s) @ v.T).norm() / change.norm()).item()
