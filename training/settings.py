"""The settings of a training: a YAML file or a preset that ships in, a checked dataclass out.

Presets (``configs/``) and defaults are the reference's hyper-parameters, as its scripts have them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml

from comem_lmms.errors import UserError, one_line
from comem_lmms.resampler import ResamplerConfig

PRESETS = Path(__file__).parent / "configs"
ACCELERATE = PRESETS / "accelerate"  # how `accelerate launch` is to start several processes
# What may differ when an interrupted training goes on: none of it changes a weight.
FREE = {"out", "save_every", "keep", "log_every", "eval_every", "eval_answers", "eval_tokens", "tracker"}
# Numbers of which there may be none.
NONE_IS_FINE = ("top_k", "seed", "eval_samples", "eval_answers")


@dataclass(frozen=True)
class Settings:
    """What a training is made of; each is a key of the YAML file.

    Attributes:
        pretrained: the VLM to make memories for: a Hub id, a folder, or ``micro``.
        data: folder of the training data.
        knowledge: folder of the knowledge base that the data was made with, or ``micro``.
        out: folder of the memory encoder to make; a training that was interrupted there goes on.
        start: a memory encoder to go on from, as a training makes it (not merged): a folder, or a Hub id. What it was
            trained on may have been easier data, or another's.
        revision: of the VLM on the Hub.
        reader: a text LLM that answers in the VLM's place (paper, Table 5).
        dtype: of the frozen weights: "auto" (the checkpoint's), "bfloat16" or "float32". What learns is float32 always.
        attn_implementation: as in transformers.
        min_pixels, max_pixels: limits of an image's area, for processors that know them.
        data_fraction: share of the samples to train on, whole documents; a smaller share is part of a larger one, and
            what is held out is the same.
        top_k: items a sample is given at most, the best ones.
        vectors: an item becomes.
        depth, heads: of the resampler; its heads are ``hidden size / heads`` wide.
        init_std, init_scale: of fresh weights of the resampler (see `ResamplerConfig`).
        rank, alpha, dropout: of the adapter.
        epochs: passes over the data.
        max_steps: after which to stop, though the data would last longer.
        lr: the highest learning rate; cosine to zero.
        warmup: share of the steps in which it rises.
        weight_decay: not on biases and norms.
        clip: the largest norm of the gradient.
        shuffle: whether samples come in an order that the seed fixes, those of like length together; else in that of
            the data, which may go from easy to hard, or have samples of a step share items: each is encoded once.
        global_batch: samples a step, over all processes.
        batch_size: samples a process takes at a time; the rest of the global batch is accumulated.
        activation_checkpointing: compute activations again in the backward pass instead of keeping them.
        seed: of fresh weights, dropout and the order of samples.
        eval_samples: held out of training at most, whole documents; 0 means none.
        eval_answers: of those, that are also answered and compared with the right answers; 0 means none.
        eval_tokens: of such an answer at most.
        eval_every, save_every, log_every: steps.
        keep: checkpoints.
        tracker: "auto" (tensorboard where it is installed), "none", or one that accelerate knows, e.g. "wandb".
    """

    pretrained: str
    data: str
    knowledge: str
    out: str
    start: str | None = None
    revision: str | None = None
    reader: str | None = None
    dtype: str = "bfloat16"
    attn_implementation: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    data_fraction: float = 1.0
    top_k: int = 3
    vectors: int = 8
    depth: int = 8
    heads: int = 16
    init_std: float = 0.02
    init_scale: float = 1.0
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    epochs: int = 1
    max_steps: int | None = None
    lr: float = 5e-5
    warmup: float = 0.03
    weight_decay: float = 0.1
    clip: float = 3.0
    shuffle: bool = True
    global_batch: int = 16
    batch_size: int = 1
    activation_checkpointing: bool = True
    seed: int = 1
    eval_samples: int = 64
    eval_answers: int = 16
    eval_tokens: int = 128
    eval_every: int = 100
    save_every: int = 100
    log_every: int = 10
    keep: int = 2
    tracker: str = "auto"

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Settings).items():
            object.__setattr__(self, name, _as(kind, name, getattr(self, name)))
        self._check(0, *NONE_IS_FINE, "weight_decay", "dropout", "warmup")
        counts = [f.name for f in fields(self) if f.type in (int, int | None)]
        self._check(1, *(name for name in counts if name not in NONE_IS_FINE))
        for name in ("lr", "clip", "init_std", "init_scale"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("dropout", "warmup"):
            if getattr(self, name) >= 1:
                raise UserError(f"{name}={getattr(self, name)} is a share and must be below 1")
        if not 0 < self.data_fraction <= 1:
            raise UserError(f"data_fraction={self.data_fraction} is a share and must be above 0 and at most 1")
        if self.dtype not in ("auto", "bfloat16", "float32"):
            raise UserError(f"dtype={self.dtype!r} cannot be trained in; choose auto, bfloat16 or float32")
        if self.global_batch % self.batch_size:
            raise UserError(
                f"global_batch={self.global_batch} is no multiple of batch_size={self.batch_size}; change one of them"
            )

    def resampler(self, width: int) -> ResamplerConfig:
        """The shape of the resampler for a VLM of that width.

        Raises:
            UserError: its heads cannot share the width.
        """
        if width % self.heads:
            raise UserError(
                f"heads={self.heads} does not divide the width of {self.pretrained!r}, {width}; give a divisor"
            )
        return ResamplerConfig(
            dim=width,
            input_dim=width,
            n_vectors=self.vectors,
            depth=self.depth,
            heads=self.heads,
            dim_head=width // self.heads,
            init_std=self.init_std,
            init_scale=self.init_scale,
        )

    def passes(self, processes: int) -> int:
        """How often each process takes ``batch_size`` samples in a step.

        Raises:
            UserError: the global batch cannot be shared among so many.
        """
        if self.global_batch % (self.batch_size * processes):
            raise UserError(
                f"global_batch={self.global_batch} cannot be shared among {processes} processes that take "
                f"batch_size={self.batch_size} at a time; give a multiple of {self.batch_size * processes}"
            )
        return self.global_batch // (self.batch_size * processes)

    def _check(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value} must be at least {least}")


# Also of a training that was begun before there was such a setting.
DEFAULTS = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}


def load(config: str, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a file, or of a preset by its name.

    Args:
        config: a YAML file, or the name of one that ships, with or without its ending.
        overrides: ``name=value``, each in place of the file's.
        values: in place of both, as they are.

    Raises:
        UserError: there is no such file, a key is unknown or missing, or has no such value.
    """
    given = read_yaml(find_yaml(PRESETS, config, "settings"))
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"--set {override!r} is not of the form name=value")
        given[name] = yaml.safe_load(value)
    given |= values or {}
    known = [field.name for field in fields(Settings)]
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"unknown setting {unknown[0]}={given[unknown[0]]!r}; known: {', '.join(known)}")
    required = [field.name for field in fields(Settings) if field.default is MISSING]
    if missing := [name for name in required if given.get(name) is None]:
        raise UserError(f"setting {missing[0]!r} is missing; write it into the file, or give --set {missing[0]}=...")
    return Settings(**given)


def presets() -> list[str]:
    """The names of the settings that ship."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def find_yaml(folder: Path, config: str, what: str) -> Path:
    """A YAML file, or one that ships in a folder by its name, with or without its ending.

    Raises:
        UserError: there is none.
    """
    if Path(config).is_file():
        return Path(config)
    shipped = folder / f"{config.removesuffix('.yaml')}.yaml"
    if Path(config).name != config or not shipped.is_file():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise UserError(f"no {what} at {config!r}; give a YAML file, or one of {names}")
    return shipped


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path} ({one_line(error)})") from error
    if not isinstance(given, dict):
        raise UserError(f"{path} holds a {type(given).__name__}, not name: value; write one a line")
    return given


def _as(kind: Any, name: str, value: Any) -> Any:
    """A value as its field's type; YAML takes 5e-5 for a text and a name of digits for a number."""
    kinds = get_args(kind) or (kind,)
    if value is None and NoneType in kinds:
        return None
    wanted = next(kind for kind in kinds if kind is not NoneType)
    if wanted is str and isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is wanted:
        return value
    raise UserError(f"{name}={value!r} must be of type {wanted.__name__}")
