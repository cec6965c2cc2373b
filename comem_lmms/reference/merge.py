"""A memory encoder of ours in, one whose adapter is merged into a whole VLM out, in our layout or the reference's."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from comem_lmms import micro
from comem_lmms.encoder import CONFIG, RESAMPLER, MemoryEncoder, is_merged, locate
from comem_lmms.errors import UserError
from comem_lmms.files import fetch, new_folder, read_json, write_json
from comem_lmms.reference.checkpoint import (
    READER_PREFIX,
    SHAPE,
    name_in_449,
    resampler_name_of_the_reference,
)
from comem_lmms.reference.loading import DECODE_OFFSET
from comem_lmms.vlm import FrozenVLM

Layout = Literal["own", "reference"]
READER_DTYPE = torch.bfloat16  # in which the reference keeps what answers


def merge(
    source: str, out: str | Path, layout: Layout = "own", base: str | None = None, dtype: str = "float16"
) -> None:
    """Writes a merged encoder to a new folder, which ``memory_encoder=`` takes.

    Args:
        source: folder or Hub id of a memory encoder.
        layout: "own": a VLM as transformers saves it, the resampler beside it. "reference": all in one, named as the
            reference names it, with the VLM that reads.
        base: the VLM it was made for, if it has moved.
        dtype: what the sum of weights and adapter, computed in float32, is rounded to; the reference's is float16.

    Raises:
        UserError: there is no such encoder, the reference has no such VLM, or a weight does not fit into the dtype.
    """
    about = read_json(locate(source) / CONFIG)
    if is_merged(about):
        raise UserError(f"memory encoder {source!r} is merged already")
    name = base or about["vlm"]
    vlm = FrozenVLM.load(name, "float32", "cpu")
    if layout == "reference" and vlm.config.model_type not in DECODE_OFFSET:
        raise UserError(
            f"the reference has no {vlm.config.model_type}, only {', '.join(DECODE_OFFSET)}; leave layout=reference out"
        )
    encoder = MemoryEncoder.load(source, vlm)
    rounded = getattr(torch, dtype)
    with new_folder(Path(out)) as folder:
        if layout == "reference":
            _write_as_the_reference(folder, encoder, fetch(micro.resolve(name, "vlm"), "config.json"), rounded)
        else:
            _write(folder, encoder, {**about, "merged": True}, rounded)
        vlm.processor.save_pretrained(folder)


def _write(folder: Path, encoder: MemoryEncoder, about: dict[str, Any], dtype: torch.dtype) -> None:
    resampler = encoder.resampler.state_dict()
    model = encoder.merged().to(dtype)
    _check_finite(model.state_dict(), dtype)
    model.save_pretrained(folder)
    save_file(resampler, folder / RESAMPLER)
    write_json(folder / CONFIG, about)


def _write_as_the_reference(folder: Path, encoder: MemoryEncoder, base: Path, dtype: torch.dtype) -> None:
    config = read_json(base / "config.json")
    config["architectures"] = [f"{name}_new" for name in config.get("architectures", [])]
    config[SHAPE] = {"heads": encoder.resampler.config.heads, "depth": encoder.resampler.config.depth}
    resampler = encoder.resampler.state_dict()
    state = {resampler_name_of_the_reference(name): tensor.to(dtype) for name, tensor in resampler.items()}
    # Before the adapter is added, which changes the weights where they are.
    reader = {name: tensor for name, tensor in encoder.vlm.model.state_dict().items() if "lora_" not in name}
    state |= {
        READER_PREFIX + name_in_449(name.replace(".base_layer.", ".")): tensor.to(READER_DTYPE)
        for name, tensor in reader.items()
    }
    state |= {name_in_449(name): tensor.to(dtype) for name, tensor in encoder.merged().state_dict().items()}
    _check_finite(state, dtype)
    save_torch_state_dict(state, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _check_finite(state: dict[str, Tensor], dtype: torch.dtype) -> None:
    if wrong := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise UserError(f"{wrong[0]} does not fit into {dtype}; use float32")
