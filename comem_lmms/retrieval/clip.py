"""Embeddings: PIL images and texts in, unit vectors of an open_clip model out."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from comem_lmms import micro
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import tensors_fingerprint

BATCH = 64
_SENTENCE = "The Quick brown fox jumps over the lazy dog's 12,345 naïve friends: Ünïcode, 你好, мир!"
Precision = Literal["auto", "float32", "bfloat16", "float16"]


def check_device(device: str | torch.device) -> torch.device:
    """The device of a name.

    Raises:
        UserError: PyTorch knows none of that name, or this machine has none.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"there is no device {str(device)!r} here ({one_line(error)}); give cpu, or cuda") from error
    return found


class ClipEmbedder:
    """An open_clip model.

    Args:
        model: an open_clip model name, ``hf-hub:ORG/REPO``, ``local-dir:FOLDER``, or ``micro``.
        pretrained: an open_clip pretrained tag or a checkpoint file; not for the prefixed names, which bring their own.
        dtype: of the arithmetic; "auto" is float16 on a GPU and float32 elsewhere. Weights stay in float32 (autocast),
            so what the model is does not depend on it.

    Attributes:
        fingerprint: SHA-256 of the image tower and the preprocessing: two models that agree here give the same vectors
            of images.

    Raises:
        UserError: open_clip cannot load the model, or ``dtype`` or ``device`` is unknown.
    """

    def __init__(
        self, model: str, pretrained: str | None = None, device: str | torch.device = "cpu", dtype: str = "auto"
    ) -> None:
        if model.startswith("local-dir:"):  # to be found again from another folder
            model = f"local-dir:{Path(model.removeprefix('local-dir:')).resolve()}"
        if model != micro.NAME and ":" not in model and not pretrained:  # open_clip would go on with random weights
            raise UserError(
                f"open_clip model {model!r} needs its pretrained tag, e.g. --clip ViT-L-14 --pretrained openai"
            )
        if dtype not in get_args(Precision):
            raise UserError(f"dtype={dtype!r} is unknown; choose one of {', '.join(get_args(Precision))}")
        self.name, self.pretrained, self.device = model, pretrained, check_device(device)
        if dtype == "auto":
            dtype = "float16" if self.device.type == "cuda" else "float32"
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._location = f"local-dir:{micro.resolve(model, 'clip')}" if model == micro.NAME else model
        known = self._location if ":" in self._location else model.replace("/", "-")  # as open_clip does
        # Weights that were trained with QuickGELU: open_clip only warns of a name without it, and computes with GELU.
        quick = bool(pretrained and open_clip.get_pretrained_cfg(known, pretrained).get("quick_gelu"))
        try:
            clip, _, self.preprocess = open_clip.create_model_and_transforms(
                self._location, pretrained, device=self.device, force_quick_gelu=quick, require_pretrained=True
            )
            self._config: dict[str, Any] = open_clip.get_model_config(known)
        except Exception as error:  # safetensors, pickle and huggingface_hub each raise their own for a bad file
            tag = f" with pretrained={pretrained!r}" if pretrained else ""
            remedy = (
                "check the folder or the Hub id, and download it again"
                if ":" in self._location
                else "`python -c 'import open_clip; print(open_clip.list_pretrained())'` lists what there is"
            )
            raise UserError(f"cannot load the open_clip model {model!r}{tag} ({one_line(error)}); {remedy}") from error
        self._config["quick_gelu"] = quick or bool(self._config.get("quick_gelu"))
        self._clip = clip.eval()
        self.fingerprint = self._fingerprint()

    @cached_property
    def text_fingerprint(self) -> str:
        """SHA-256 of the text tower and its tokenizer: two models that agree here too give the same vectors of texts.

        Raises:
            UserError: there is no tokenizer.
        """
        weights = {k: v for k, v in self._clip.state_dict().items() if not k.startswith("visual.")}
        of_hf = getattr(self._tokenizer, "tokenizer", None)  # any other comes with open_clip
        vocabulary: dict[str, int] = of_hf.get_vocab() if of_hf is not None else {}
        read = [sorted(vocabulary.items()), self._tokenizer([_SENTENCE]).tolist()]
        return tensors_fingerprint(
            {**weights, "(config)": _as_tensor(self._config["text_cfg"]), "(tokenizer)": _as_tensor(read)}
        )

    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(n, d) float32, rows of length 1; an image's vector does not depend on the others."""
        return self.encode(torch.stack([self.preprocess(image) for image in images]))

    def encode(self, pixels: Tensor) -> np.ndarray:
        """The vectors of preprocessed images (n, 3, height, width), (n, d) float32."""
        return self._unit(self._clip.encode_image, pixels)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32, rows of length 1; what a text is too long by is cut off by the model's own tokenizer.

        Raises:
            UserError: the model has no tokenizer that fits.
        """
        tokens = self._tokenizer(list(texts))
        known = self._config["text_cfg"].get("vocab_size")
        if known is not None and int(tokens.max()) >= known:
            raise UserError(
                f"open_clip model {self.name!r} cannot embed texts: it knows {known} tokens, its tokenizer has more; "
                "ask by image alone, or with another model"
            )
        return self._unit(self._clip.encode_text, tokens)

    @torch.inference_mode()
    def _unit(self, encode: Any, inputs: Tensor) -> np.ndarray:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            vectors = encode(inputs.to(self.device))
        return normalize(vectors.float(), dim=-1).cpu().numpy()

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            return open_clip.get_tokenizer(self._location)
        except Exception as error:  # as above
            raise UserError(
                f"cannot load the tokenizer of open_clip model {self.name!r} ({one_line(error)}); ask by image alone, "
                "or download the model with its tokenizer"
            ) from error

    def _fingerprint(self) -> str:
        visual = self._clip.visual
        computed = [self._config["vision_cfg"], self._config["quick_gelu"], visual.preprocess_cfg]
        return tensors_fingerprint({**visual.state_dict(), "(config)": _as_tensor(computed)})


def _as_tensor(content: Any) -> Tensor:
    """JSON as bytes, to be hashed with weights."""
    return torch.frombuffer(bytearray(json.dumps(content, sort_keys=True).encode()), dtype=torch.uint8)
