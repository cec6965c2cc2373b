"""Image embeddings: PIL images in, unit vectors of an open_clip model out."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from comem_lmms import micro
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import tensors_fingerprint

BATCH = 64


class ClipEmbedder:
    """The image tower of an open_clip model.

    Args:
        model: an open_clip model name, ``hf-hub:ORG/REPO``, ``local-dir:FOLDER``, or ``micro``.
        pretrained: an open_clip pretrained tag or a checkpoint file; not for the prefixed names, which bring their own.
    """

    def __init__(self, model: str, pretrained: str | None = None, device: str | torch.device = "cpu") -> None:
        if model.startswith("local-dir:"):  # to be found again from another folder
            model = f"local-dir:{Path(model.removeprefix('local-dir:')).resolve()}"
        if model != micro.NAME and ":" not in model and not pretrained:  # open_clip would go on with random weights
            raise UserError(
                f"open_clip model {model!r} needs its pretrained tag, e.g. --clip ViT-L-14 --pretrained openai"
            )
        self.name, self.pretrained, self.device = model, pretrained, torch.device(device)
        location = f"local-dir:{micro.resolve(model, 'clip')}" if model == micro.NAME else model
        try:
            clip, _, self._preprocess = open_clip.create_model_and_transforms(location, pretrained, device=self.device)
        except Exception as error:  # safetensors, pickle and huggingface_hub each raise their own for a bad file
            tag = f" with pretrained={pretrained!r}" if pretrained else ""
            remedy = (
                "check the folder or the Hub id, and download it again"
                if ":" in location
                else "`python -c 'import open_clip; print(open_clip.list_pretrained())'` lists what there is"
            )
            raise UserError(f"cannot load the open_clip model {model!r}{tag} ({one_line(error)}); {remedy}") from error
        self._clip = clip.eval()
        self.fingerprint = self._fingerprint()

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(n, d) float32, rows of length 1; an image's vector does not depend on the others."""
        pixels = torch.stack([self._preprocess(image) for image in images]).to(self.device)
        return self._clip.encode_image(pixels, normalize=True).float().cpu().numpy()

    def embed_all(self, images: Iterable[Image.Image]) -> Iterator[np.ndarray]:
        """The vectors of a stream of images, a batch at a time; holds one batch of images in memory."""
        stream = iter(images)
        while batch := list(islice(stream, BATCH)):
            yield self.embed(batch)

    def _fingerprint(self) -> str:
        """Of the image tower's weights and the preprocessing: two models that agree here give the same vectors."""
        weights = self._clip.visual.state_dict()
        preprocess = torch.frombuffer(bytearray(repr(self._preprocess.transforms[0]).encode()), dtype=torch.uint8)
        normalise = torch.tensor([[*t.mean, *t.std] for t in self._preprocess.transforms if hasattr(t, "mean")])
        return tensors_fingerprint({**weights, "(resize)": preprocess, "(normalise)": normalise})
