"""Puts the parts of a checkpoint of the reference together: a folder or Hub id in, an encoder and a reader out."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from comem_lmms import micro
from comem_lmms.encoder import CONFIG, MemoryEncoder
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import fetch, is_hub_id
from comem_lmms.reference.checkpoint import Checkpoint, build
from comem_lmms.reference.reading import (
    MAX_PIXELS,
    MIN_PIXELS,
    ReferenceEncoder,
    ReferenceReader,
    ReferenceVLM,
    TextReader,
)
from comem_lmms.vlm import FrozenVLM, check_placement, load_processor, read_config
from comem_lmms.vlm import hidden_size as width_of

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
    made_for = (config.model_type, width_of(config))
    if made_for != (model_type, hidden_size):
        raise UserError(
            f"checkpoint {source!r} is a {made_for[0]} of hidden size {made_for[1]}, but pretrained={vlm!r} is a "
            f"{model_type} of hidden size {hidden_size}; give the VLM it was tuned from"
        )
    if config.model_type not in DECODE_OFFSET:
        raise UserError(f"checkpoint {source!r} is a {config.model_type}; known are {', '.join(DECODE_OFFSET)}")


def check_reader(reader: str, hidden_size: int) -> None:
    """Raises UserError unless a text LLM is as wide as memories are."""
    if (width := width_of(read_config(reader))) != hidden_size:
        raise UserError(
            f"reader={reader!r} is {width} wide, but memories are {hidden_size} wide; give an LLM of that width"
        )


def load(source: str, base: str, reader: str | None = None, **placement: Any) -> tuple[MemoryEncoder, FrozenVLM]:
    """The encoder of a checkpoint and what answers, for the reference's results, bugs included.

    Args:
        source: folder or Hub id.
        base: the VLM it was tuned from.
        reader: a text LLM that answers instead.
        placement: dtype, device and attention, as in `load_parts`.
    """
    if not reader:
        return load_parts(source, base, **placement)
    check_reader(reader, width_of(read_config(base)))
    encoder = load_encoder(Checkpoint(source), base, **placement)
    return encoder, TextReader(reader, load_llm(reader, encoder, placement.get("attention")), encoder)


def load_llm(reader: str, encoder: MemoryEncoder, attention: str | None = None) -> Any:
    """A text LLM for an encoder, of its dtype and where it is.

    Raises:
        UserError: there is no such LLM.
    """
    try:
        llm: Any = AutoModelForCausalLM.from_pretrained(
            reader, dtype=encoder.vlm.model.dtype, attn_implementation=attention
        )
    except Exception as error:  # transformers raises a dozen kinds
        raise UserError(f"cannot load the text LLM reader={reader!r} ({one_line(error)})") from error
    return llm.to(encoder.vlm.device)


def load_encoder(
    checkpoint: Checkpoint,
    base: str,
    kind: type[FrozenVLM] = ReferenceVLM,
    dtype: str = "auto",
    device: str | None = None,
    attention: str | None = None,
    pixels: tuple[int | None, int | None] = (None, None),
    revision: str | None = None,
    **shape: Any,
) -> MemoryEncoder:
    """The encoder of a checkpoint.

    Args:
        base, revision: where the processor comes from.
        pixels: least and most of an image's area, for what is not fed as the reference feeds it.
        kind: how items are fed.
        dtype: "auto" is bfloat16, in which the reference runs, whatever the checkpoint is stored in.
        shape: ``heads`` and ``depth`` of the resampler, where they are not the reference's.
    """
    placement = check_placement(dtype, device)
    config = read_config(str(checkpoint.folder))
    processor = load_processor(base, *((MIN_PIXELS, MAX_PIXELS) if kind is ReferenceVLM else pixels), revision)
    model = build(config, checkpoint.encoder_weights(), _dtype(dtype), attention)
    encoder = ReferenceEncoder if kind is ReferenceVLM else MemoryEncoder
    return encoder(kind(str(checkpoint.folder), model.to(placement), processor), None, checkpoint.resampler(**shape))


def load_parts(
    source: str,
    base: str,
    dtype: str = "auto",
    device: str | None = None,
    attention: str | None = None,
    revision: str | None = None,
    **shape: Any,
) -> tuple[MemoryEncoder, ReferenceReader]:
    """The encoder and the reader of a checkpoint; arguments as in `load_encoder`.

    The reader is put together as the reference's is: language layers from ``model_inf`` (or the base, where the
    checkpoint has none), token embeddings, vision tower and head from the encoder (quirk 6), whose weights they share.
    """
    checkpoint = Checkpoint(source)
    encoder = load_encoder(
        checkpoint, base, dtype=dtype, device=device, attention=attention, revision=revision, **shape
    )
    tuned = encoder.vlm.model
    if inner := checkpoint.reader_weights():
        reading = build(tuned.config, inner, _dtype(dtype), attention)
    else:
        named = str(_dtype(dtype)).removeprefix("torch.")
        reading = FrozenVLM.load(base, named, device, attention, revision=revision).model
    share(tuned, reading)
    reader = ReferenceReader(
        source, reading.to(encoder.vlm.device), encoder.vlm.processor, DECODE_OFFSET[tuned.config.model_type]
    )
    return encoder, reader


def _dtype(name: str) -> torch.dtype:
    return torch.bfloat16 if name == "auto" else getattr(torch, name)


def share(tuned: Any, reading: Any) -> None:
    """Gives the reader the encoder's vision tower, token embeddings and head (quirk 6)."""
    reading.model.visual = tuned.model.visual
    reading.model.language_model.embed_tokens = tuned.model.language_model.embed_tokens
    reading.lm_head = tuned.lm_head
