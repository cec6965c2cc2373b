"""The resampler computes what the reference's Q-Former computes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from comem_lmms.resampler import Resampler, ResamplerConfig

# Names of the reference's weights, ours after it.
NAMES = {
    "layers.0.norm1": "attention.norm_input",
    "layers.0.norm2": "attention.norm_latents",
    "layers.0": "attention",
    "layers.1.0": "feed_forward.0",
    "layers.1.1": "feed_forward.1",
    "layers.1.3": "feed_forward.3",
}


def from_reference(state: dict[str, torch.Tensor], config: dict) -> Resampler:
    def rename(name: str) -> str:
        return next((name.replace(theirs, ours, 1) for theirs, ours in NAMES.items() if name.startswith(theirs)), name)

    shape = {"n_vectors": config["num_queries"], "input_dim": config["embedding_dim"]}
    shape |= {name: config[name] for name in ("dim", "depth", "heads", "dim_head", "ff_mult") if name in config}
    resampler = Resampler(ResamplerConfig(**shape))
    resampler.load_state_dict({rename(name): tensor for name, tensor in state.items()})
    return resampler.eval()


@pytest.mark.parametrize("size", ["main", "small"])
def test_reference_outputs(fixtures, size):
    tensors = load_file(fixtures / "parity/qformer/qformer.safetensors")
    config = json.loads((fixtures / "parity/qformer/qformer.json").read_text())
    prefix = f"{size}.state."
    state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    resampler = from_reference(state, config[size])
    cases = [name for name in config["cases"] if name.startswith(f"{size}.")]
    assert len(cases) >= 6
    for case in cases:
        with torch.no_grad():
            out = resampler(tensors[f"{case}.x"], tensors[f"{case}.mask"])
        torch.testing.assert_close(out, tensors[f"{case}.out"], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def resampler():
    return Resampler(ResamplerConfig(dim=32, input_dim=24, n_vectors=8, depth=3, heads=2, dim_head=16)).eval()


def test_masked_input_has_no_influence(resampler):
    x, mask = torch.randn(2, 9, 24), torch.ones(2, 9, dtype=torch.bool)
    mask[:, :4] = False
    changed = torch.where(mask.unsqueeze(-1), x, torch.randn_like(x) * 100)
    assert torch.equal(resampler(x, mask), resampler(changed, mask))
    torch.testing.assert_close(resampler(x, mask), resampler(x[:, 4:], mask[:, 4:]), atol=1e-5, rtol=0)


def test_items_do_not_see_each_other(resampler):
    x, mask = torch.randn(3, 7, 24), torch.ones(3, 7, dtype=torch.bool)
    alone = torch.cat([resampler(x[i : i + 1], mask[:1]) for i in range(3)])
    torch.testing.assert_close(resampler(x, mask), alone, atol=1e-5, rtol=0)


def test_size_at_7b():
    """179,895,296 parameters at the width of Qwen2.5-VL-7B (counted on the reference)."""
    with torch.device("meta"):
        resampler = Resampler(ResamplerConfig(dim=3584, input_dim=3584))
    assert sum(p.numel() for p in resampler.parameters()) == 179_895_296
