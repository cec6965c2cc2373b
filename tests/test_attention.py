"""Attending within all chunks of a vision tower at once changes nothing but the time."""

import numpy as np
import pytest
import tiny
import torch
from helpers import chat
from PIL import Image

from comem_lmms import attention
from comem_lmms.vlm import FrozenVLM


@pytest.mark.parametrize("family", attention.FAMILIES)
@pytest.mark.parametrize("padding", [0, 4, 100])
def test_a_tower_attends_within_all_chunks_at_once_as_within_each(family, padding, tmp_path, monkeypatch):
    """Images of several sizes, so that chunks differ and are padded; gradients too."""
    tiny.save(family, tmp_path)
    vlm = FrozenVLM.load(str(tmp_path))
    monkeypatch.setattr(attention, "MOST_PADDING", padding)
    rng = np.random.default_rng(0)
    sizes = [(112, 196), (28, 56), (252, 140)]
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
    found = []
    for name in ("sdpa", attention.NAME):
        vlm.config.vision_config._attn_implementation = name
        inputs = vlm.prepare([chat("What is it?", image) for image in images])
        inputs["pixel_values"].requires_grad_()
        hidden = vlm.hidden_states(inputs)
        weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
        (weights * hidden).sum().backward()
        found.append((hidden.detach(), inputs["pixel_values"].grad))
    for one, other in zip(*found, strict=True):
        size = one.abs().max()
        assert size > 0
        torch.testing.assert_close(one / size, other / size, rtol=0, atol=1e-4)
