"""Generation arguments: what an lmms-eval task asks for in, what transformers' ``generate`` takes out."""

import logging
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

log = logging.getLogger(__name__)

# Sampling settings that mean nothing without sampling; transformers warns about each.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
DEFAULTS = {"max_new_tokens": 128}


def generation_arguments(gen_kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Splits a task's ``gen_kwargs`` into arguments of ``generate`` and the strings to stop at.

    Greedy unless the task asks for ``do_sample`` or a temperature above 0; a temperature of 0 is greedy whatever else
    is asked for. Arguments that transformers does not know are dropped, and said to be.
    """
    asked = {key: value for key, value in gen_kwargs.items() if value is not None}
    if "max_length" not in asked:
        asked = {**DEFAULTS, **asked}
    until = [stop for name in ("until", "stop_strings") for stop in _strings(asked.pop(name, None))]
    temperature = asked.get("temperature")
    sample = bool(asked.pop("do_sample", temperature)) and temperature != 0  # without a temperature: the model's own
    if not sample:
        asked = {key: value for key, value in asked.items() if key not in _SAMPLING}
    known = {name for name in GenerationConfig().to_dict() if not name.startswith(("output_", "return_"))}
    unknown = sorted(set(asked) - known)
    if unknown:
        _warn(", ".join(unknown))
    arguments = {key: value for key, value in asked.items() if key in known}
    return {**arguments, "do_sample": sample}, until


@cache
def _warn(names: str) -> None:
    """Once, not for every batch."""
    log.warning("generation arguments that transformers does not know are ignored: %s", names)


class StopAt(StoppingCriteria):
    """Ends a row as soon as what it has generated, the prompt not counted, holds one of some strings."""

    def __init__(self, until: list[str], prompt: int, tokenizer: Any) -> None:
        self._until, self._prompt, self._tokenizer = until, prompt, tokenizer
        # A token may be a single byte of a character.
        self._window = 4 * max(map(len, until)) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B,) bool: which rows are done."""
        new = input_ids[:, self._prompt :][:, -self._window :]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in self._until) for text in texts], device=input_ids.device)


class FirstToken(StoppingCriteria):
    """Ends nothing, but notes when the first token of a batch is there, since ``generate`` asks it after each.

    Attributes:
        seconds: from the making of this to that token; None before.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._start = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B,) bool: that no row is done."""
        if self.seconds is None:
            input_ids[0, -1].item()  # a GPU is still at it until it is read; ``generate`` waits for it next anyway
            self.seconds = time.perf_counter() - self._start
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _strings(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else [text for text in given or [] if text]


def cut(text: str, until: list[str]) -> str:
    """The text before the first of the strings to stop at."""
    return text[: min((i for i in map(text.find, until) if i >= 0), default=len(text))]
