"""A checkpoint in the reference's layout: safetensors with its names in, weights with today's names out.

It holds a tuned VLM that encodes (``model.``, ``visual.``, ``lm_head.``), a resampler (``knowledge_processor.``) and,
in a VLM variant, the VLM that reads (``model_inf.``), all merged and named as transformers 4.49 named them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForImageTextToText

from comem_lmms import fingerprints
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import fetch, read_json
from comem_lmms.resampler import Resampler, ResamplerConfig

log = logging.getLogger(__name__)

WEIGHTS = "model*.safetensors"
RESAMPLER_PREFIX = "knowledge_processor."
RELEASED_WIDTH = 16 * 224  # heads by their width, at 7B
READER_PREFIX = "model_inf."
ENCODER_PREFIXES = ("model.", "visual.", "lm_head.")
LANGUAGE = "model.language_model."  # today's prefix of what was model. in 4.49
SHAPE = "memory_resampler"  # in config.json: what our own merging says of the resampler that weights do not tell
# The reference's beginnings of names, and ours.
_RESAMPLER_NAMES = (
    ("layers.0.norm1.", "attention.norm_input."),
    ("layers.0.norm2.", "attention.norm_latents."),
    ("layers.0.", "attention."),
    ("layers.1.", "feed_forward."),
)


class Checkpoint:
    """The tensors of a checkpoint in the reference's layout, read when asked for.

    Args:
        source: folder or Hub id.

    Raises:
        UserError: the folder holds no safetensors, or no resampler.
    """

    def __init__(self, source: str | Path) -> None:
        self.folder = fetch(str(source), "*.json", WEIGHTS)
        files = sorted(self.folder.glob(WEIGHTS))
        if not files:
            raise UserError(f"no checkpoint at {str(source)!r}: {WEIGHTS} is missing; give a folder or a Hub id")
        self._files: dict[str, Any] = {}
        for path in files:
            try:
                shard = safe_open(path, framework="pt")  # memory-mapped
            except Exception as error:  # safetensors raises its own
                raise UserError(f"{path} is damaged ({one_line(error)}); download it again") from error
            self._files |= dict.fromkeys(shard.keys(), shard)
        self._check()

    def resampler(self, **shape: int) -> Resampler:
        """The resampler; see `make_resampler`."""
        names = [name for name in self._files if name.startswith(RESAMPLER_PREFIX)]
        config = self.folder / "config.json"
        if not shape and config.is_file():
            shape = read_json(config).get(SHAPE, {})
        try:
            return make_resampler({resampler_name(name): self[name] for name in names}, **shape)
        except (KeyError, RuntimeError, ValueError) as error:  # a tensor is missing, or of another shape
            raise UserError(
                f"{self.folder}: {RESAMPLER_PREFIX}* is no Q-Former of the reference ({one_line(error)}); download it "
                "again"
            ) from error

    @property
    def names(self) -> list[str]:
        """Names of all tensors, the reference's."""
        return list(self._files)

    @property
    def encoder_names(self) -> list[str]:
        """Names of the tensors of the VLM that encodes."""
        return [name for name in self._files if name.startswith(ENCODER_PREFIXES)]

    def encoder_weights(self) -> dict[str, Tensor]:
        """Weights of the VLM that encodes, by today's names."""
        return {todays_name(name): self[name] for name in self.encoder_names}

    @property
    def reader_names(self) -> dict[str, str]:
        """Names of the tensors of the VLM that reads (``model_inf``), by today's; empty where there is none."""
        names = [name for name in self._files if name.startswith(READER_PREFIX)]
        return {todays_name(name.removeprefix(READER_PREFIX)): name for name in names}

    def reader_weights(self) -> dict[str, Tensor]:
        """Weights of the VLM that reads, by today's names; empty where the checkpoint has none."""
        return {ours: self[name] for ours, name in self.reader_names.items()}

    def reader_difference(self, base: Mapping[str, Tensor]) -> float | None:
        """Largest absolute difference between ``model_inf`` and the base's weights, rounding to their dtypes left out.

        Other than 0 it means that training changed the reader (quirk 3). One tensor is read at a time.

        Raises:
            UserError: the base lacks one of them, or has it in another shape.
        """
        largest = None
        for ours, name in self.reader_names.items():
            tuned, plain = self[name], base.get(ours)
            if plain is None or plain.shape != tuned.shape:
                raise UserError(f"{self.folder} has {name}, but its base not, or in another shape; give its own base")
            tuned = tuned.to(plain.device)
            if torch.equal(tuned.to(plain.dtype), plain):  # the base is loaded in a coarser dtype
                largest = largest or 0.0
            else:
                change = change_of(tuned, plain).abs().nan_to_num(nan=torch.inf)
                largest = max(largest or 0.0, change.max().item())
        return largest

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name)

    def _check(self) -> None:
        index = self.folder / "model.safetensors.index.json"
        promised = set(read_json(index).get("weight_map", ())) if index.is_file() else set()
        if missing := promised - set(self._files):
            raise UserError(f"{self.folder}: a shard is missing ({min(missing)} is in none); download it again")
        if not any(name.startswith(RESAMPLER_PREFIX) for name in self._files):
            raise UserError(
                f"{self.folder} has no {RESAMPLER_PREFIX}*, so it is a plain VLM without a memory encoder (the "
                "reference's own merge script drops it); merge again with the class that has one"
            )


def fingerprint(source: str) -> str:
    """Of all that encoder and reader are made of, wherever the checkpoint lies."""
    folder = fetch(source, "config.json", WEIGHTS)
    return fingerprints.fingerprint([folder / "config.json", *folder.glob(WEIGHTS)])


def todays_name(name: str) -> str:
    """A weight's name in transformers 5, given that in 4.49."""
    if name.startswith("visual."):
        return f"model.{name}"
    return LANGUAGE + name.removeprefix("model.") if name.startswith("model.") else name


def name_in_449(name: str) -> str:
    """A weight's name in transformers 4.49, given today's."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return f"model.{name.removeprefix(LANGUAGE)}" if name.startswith(LANGUAGE) else name


def change_of(tuned: Tensor, plain: Tensor) -> Tensor:
    """What training added to a weight; what is only the rounding to another dtype is none."""
    if torch.equal(plain.to(tuned.dtype), tuned):
        return torch.zeros(())
    return tuned.float() - plain.float()


def resampler_name(name: str) -> str:
    """A resampler weight's name here, given the reference's."""
    name = name.removeprefix(RESAMPLER_PREFIX)
    for theirs, ours in _RESAMPLER_NAMES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def resampler_name_of_the_reference(name: str) -> str:
    """A resampler weight's name in the reference, given ours."""
    for theirs, ours in _RESAMPLER_NAMES:
        if name.startswith(ours):
            return RESAMPLER_PREFIX + theirs + name.removeprefix(ours)
    return RESAMPLER_PREFIX + name


def make_resampler(weights: Mapping[str, Tensor], heads: int | None = None, depth: int = 8) -> Resampler:
    """A resampler of the weights' shape, but for ``heads`` and ``depth``, which cannot be read off them.

    The reference's are 16 heads of 224 and a depth of 8; for another width heads of 16 are assumed, and said to be.
    """
    _, n_vectors, dim = weights["latents"].shape
    inner = len(weights["attention.to_q.weight"])
    if heads is None:
        heads = 16 if inner == RELEASED_WIDTH else max(1, inner // 16)
        if inner != RELEASED_WIDTH:
            log.warning("the resampler is %s wide, not as released; taking %s heads and depth %s", inner, heads, depth)
    config = ResamplerConfig(
        dim=dim,
        input_dim=weights["proj_in.weight"].shape[1],
        n_vectors=n_vectors,
        depth=depth,
        heads=heads,
        dim_head=inner // heads,
        ff_mult=len(weights["feed_forward.1.weight"]) // dim,
    )
    resampler = Resampler(config)
    resampler.load_state_dict(weights)
    return resampler.eval().requires_grad_(False)


def build(config: Any, weights: dict[str, Tensor], dtype: torch.dtype, attention: str | None = None) -> Any:
    """A VLM with the given weights, which are converted one by one, never all at once.

    Raises:
        UserError: a weight is missing.
    """
    config.use_cache = True  # saved as false after training
    kind: Any = AutoModelForImageTextToText._model_mapping[type(config)]
    try:
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except (ImportError, ValueError) as error:  # what transformers raises for an attention that is not there
        raise UserError(
            f"cannot build the checkpoint's VLM ({one_line(error)}); change attn_implementation="
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"the checkpoint lacks {len(missing)} weights, the first {missing[0]}; download it again")
    return model
