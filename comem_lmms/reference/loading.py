"""Puts the parts of a checkpoint of the reference together: a folder or Hub id in, an encoder and a reader out."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from comem_lmms import micro
from comem_lmms.encoder import CONFIG, MemoryEncoder
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import fetch, is_hub_id
from comem_lmms.reference.checkpoint import (
    ENCODER_PREFIXES,
    RESAMPLER_PREFIX,
    Checkpoint,
    build,
    make_resampler,
    resampler_name,
    todays_name,
)
from comem_lmms.reference.reading import (
    MAX_PIXELS,
    MIN_PIXELS,
    ReferenceEncoder,
    ReferenceReader,
    ReferenceVLM,
    TextReader,
)
from comem_lmms.vlm import FrozenVLM, check_placement, load_processor, read_config

# The reference decodes this many positions behind the question, whatever the length of the memory.
DECODE_OFFSET = {"qwen2_5_vl": 8000, "qwen2_vl": 4000}


def is_reference(source: str) -> bool:
    """Whether a folder or Hub id holds a checkpoint in the reference's layout: a whole model, no adapter."""
    source = micro.resolve(source, "memory_encoder")
    if not Path(source).is_dir() and not is_hub_id(source):
        return False
    names = {path.name for path in fetch(source, "*.json").iterdir()}
    return "config.json" in names and CONFIG not in names


def check(source: str, vlm: str, model_type: str, hidden_size: int) -> None:
    """Compares a checkpoint's configuration with that of the VLM it is to be used with.

    Raises:
        UserError: it was made for another kind or size of VLM.
    """
    config = read_config(str(fetch(source, "*.json")))
    made_for = (config.model_type, config.get_text_config().hidden_size)
    if made_for != (model_type, hidden_size):
        raise UserError(
            f"checkpoint {source!r} is a {made_for[0]} of hidden size {made_for[1]}, but pretrained={vlm!r} is a "
            f"{model_type} of hidden size {hidden_size}; give the VLM it was tuned from"
        )
    if config.model_type not in DECODE_OFFSET:
        raise UserError(f"checkpoint {source!r} is a {config.model_type}; known are {', '.join(DECODE_OFFSET)}")


def load(
    source: str, base: str, compat: str = "reference", reader: str | None = None, **placement: Any
) -> tuple[MemoryEncoder, FrozenVLM]:
    """The encoder of a checkpoint and what answers.

    Args:
        source: folder or Hub id.
        base: the VLM it was tuned from.
        compat: "reference" for its results, bugs included; "clean" for the base VLM as the reader.
        reader: a text LLM that answers instead.
        placement: dtype, device and attention, as in `load_parts`.
    """
    if compat == "clean":
        if reader:
            raise UserError(f"reader={reader!r} is known in compat=reference only; leave one of them out")
        encoder = load_encoder(source, base, FrozenVLM, **placement)
        attention = placement.pop("attention", None)
        return encoder, FrozenVLM.load(base, **placement, attn_implementation=attention)
    if not reader:
        return load_parts(source, base, **placement)
    encoder = load_encoder(source, base, **placement)
    try:
        llm: Any = AutoModelForCausalLM.from_pretrained(reader, dtype=encoder.vlm.model.dtype)
    except Exception as error:  # transformers raises a dozen kinds
        raise UserError(f"cannot load the text LLM reader={reader!r} ({one_line(error)})") from error
    if llm.config.hidden_size != encoder.vlm.hidden_size:
        raise UserError(
            f"reader={reader!r} is {llm.config.hidden_size} wide, but memories are {encoder.vlm.hidden_size} wide; "
            "give an LLM of that width"
        )
    return encoder, TextReader(reader, llm.to(encoder.vlm.device), encoder)


def load_encoder(
    source: str,
    base: str,
    kind: type[FrozenVLM] = ReferenceVLM,
    dtype: str = "auto",
    device: str | None = None,
    attention: str | None = None,
    **shape: Any,
) -> MemoryEncoder:
    """The encoder of a checkpoint.

    Args:
        source: folder or Hub id.
        base: where the processor comes from.
        kind: how items are fed.
        dtype: "auto" is bfloat16, in which the reference runs, whatever the checkpoint is stored in.
        shape: ``heads`` and ``depth`` of the resampler, where they are not the reference's.
    """
    placement = check_placement(dtype, device)
    folder = fetch(source, "*.json", "*.safetensors")
    checkpoint = Checkpoint(folder)
    processor = load_processor(base, *((MIN_PIXELS, MAX_PIXELS) if kind is ReferenceVLM else ()))
    model = build(read_config(str(folder)), checkpoint.encoder_weights(), _dtype(dtype), attention)
    encoder = ReferenceEncoder if kind is ReferenceVLM else MemoryEncoder
    return encoder(kind(source, model.to(placement), processor), None, checkpoint.resampler(**shape))


def load_parts(
    source: str, base: str, dtype: str = "auto", device: str | None = None, attention: str | None = None, **shape: Any
) -> tuple[MemoryEncoder, ReferenceReader]:
    """The encoder and the reader of a checkpoint; arguments as in `load_encoder`.

    The reader is put together as the reference's is: language layers from ``model_inf`` (or the base, where the
    checkpoint has none), token embeddings, vision tower and head from the encoder (quirk 6), whose weights they share.
    """
    encoder = load_encoder(source, base, dtype=dtype, device=device, attention=attention, **shape)
    tuned = encoder.vlm.model
    inner = Checkpoint(fetch(source, "*.json", "*.safetensors")).reader_weights()
    if inner:
        reading = build(tuned.config, inner, _dtype(dtype), attention)
    else:
        reading = FrozenVLM.load(base, str(_dtype(dtype)).removeprefix("torch."), device, attention).model
    _share(tuned, reading)
    reader = ReferenceReader(
        source, reading.to(encoder.vlm.device), encoder.vlm.processor, DECODE_OFFSET[tuned.config.model_type]
    )
    return encoder, reader


def _dtype(name: str) -> torch.dtype:
    return torch.bfloat16 if name == "auto" else getattr(torch, name)


def load_adapter(
    folder: str, base: str, dtype: str = "auto", device: str | None = None, attention: str | None = None, **shape: int
) -> tuple[MemoryEncoder, ReferenceReader]:
    """As `load_parts`, from what the reference's training saves: a peft adapter that holds the resampler too.

    The adapter of the reader's layers, which came about by accident (quirk 3), is left out.
    """
    weights = load_file(Path(folder) / "adapter_model.safetensors")
    named = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    tuned, reading = (FrozenVLM.load(base, dtype, device, attention).model for _ in range(2))
    processor = load_processor(base, MIN_PIXELS, MAX_PIXELS)
    settings = json.loads((Path(folder) / "adapter_config.json").read_text())
    vlm = ReferenceVLM(folder, tuned, processor)
    lora = LoraConfig(r=settings["r"], lora_alpha=settings["lora_alpha"], target_modules=vlm.backbone.lora_targets)
    adapted = get_peft_model(tuned, lora)
    ours = {f"base_model.model.{todays_name(n)}": t for n, t in named.items() if n.startswith(ENCODER_PREFIXES)}
    report: Any = set_peft_model_state_dict(adapted, ours)
    if report.unexpected_keys:
        raise UserError(f"{folder} adapts {report.unexpected_keys[0]}, which memory encoders of {base!r} do not")
    _share(tuned, reading)
    resampler = {
        resampler_name(n.removeprefix(RESAMPLER_PREFIX)): t for n, t in named.items() if n.startswith(RESAMPLER_PREFIX)
    }
    encoder = MemoryEncoder(vlm, adapted.eval(), make_resampler(resampler, **shape))
    return encoder, ReferenceReader(folder, reading, processor, DECODE_OFFSET[tuned.config.model_type])


def _share(tuned: Any, reading: Any) -> None:
    """Gives the reader the encoder's vision tower, token embeddings and head (quirk 6)."""
    reading.model.visual = tuned.model.visual
    reading.model.language_model.embed_tokens = tuned.model.language_model.embed_tokens
    reading.lm_head = tuned.lm_head
