"""A merged encoder makes the memories that it made before, in either layout."""

import json

import pytest
import tiny
import torch
from helpers import answers, evaluate
from safetensors.torch import load_file, save_file
from tiny import ITEMS

from comem_lmms import reference
from comem_lmms.encoder import MemoryEncoder, fingerprint
from comem_lmms.errors import UserError
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.loading import Parts
from comem_lmms.reference import Checkpoint, merge
from comem_lmms.vlm import FrozenVLM


def trained(base, **more):
    """As if it were."""
    torch.manual_seed(2)
    encoder = MemoryEncoder.create(FrozenVLM.load(str(base), "float32", "cpu"), tiny.RESAMPLER, rank=4, **more)
    for name, parameter in encoder.vlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    encoder.train(False)
    return encoder


def loaded(folder, base="micro", **more):
    return Parts(MemoryArguments(pretrained=str(base), memory_encoder=str(folder), dtype="float32", **more), "cpu")


@pytest.mark.parametrize(("layout", "more"), [("own", {}), ("reference", {"compat": "clean"})])
@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-4), ("float16", 2e-2)])
def test_memories_stay_what_they_were(tmp_path, encoder, knowledge, layout, more, dtype, close):
    merge("micro", tmp_path / "merged", layout, dtype=dtype)
    parts = loaded(tmp_path / "merged", **more)
    items = [knowledge[row] for row in range(4)]
    expected = encoder.encode(items)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(parts.encoder.encode(items), expected, atol=close, rtol=0)
    assert parts.encoder.vlm.model is not parts.reader.model
    if layout == "reference":
        assert Checkpoint(tmp_path / "merged").reader_difference(parts.reader.model.state_dict()) == 0


def test_answers_stay_what_they_were(tmp_path, run):
    run("comem-lmms", "merge", "micro", "merged", "--dtype", "float32")
    given = {"limit": 24, "batch_size": 8}
    merged = evaluate("comem", model_args=f"memory_encoder={tmp_path / 'merged'}", **given)
    assert answers(merged) == answers(evaluate("comem", **given))
    with pytest.raises(UserError, match="is there already"):
        merge("micro", tmp_path / "merged")
    with pytest.raises(UserError, match="is merged already"):
        merge(str(tmp_path / "merged"), tmp_path / "again")
    assert fingerprint(str(tmp_path / "merged")) != fingerprint("micro")
    before = fingerprint(str(tmp_path / "merged"))
    weights = tmp_path / "merged/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert fingerprint(str(tmp_path / "merged")) != before
    (tmp_path / "merged/config.json").unlink()
    with pytest.raises(UserError, match=r"no memory encoder at .*: config\.json is missing"):
        loaded(tmp_path / "merged")


@pytest.mark.parametrize(("family", "base"), [("qwen2_5_vl", "Qwen2.5-VL-tiny"), ("qwen2_vl", "Qwen2-VL-tiny")])
def test_keys_are_the_references(tmp_path, fixtures, family, base):
    base = fixtures / "parity/base" / base
    vlm = FrozenVLM.load(str(base), "float32", "cpu")
    shape = tiny.ResamplerConfig(dim=64, input_dim=64, heads=4, dim_head=16)
    made = MemoryEncoder.create(vlm, shape, dropout=0.0)
    made.save(tmp_path / "encoder")
    merge(str(tmp_path / "encoder"), tmp_path / "merged", "reference")
    ours = load_file(tmp_path / "merged/model.safetensors")
    theirs = load_file(fixtures / "parity" / family / "merged/model.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in ours.items()} == {
        name: (t.shape, t.dtype) for name, t in theirs.items()
    }
    config = json.loads((tmp_path / "merged/config.json").read_text())
    theirs_config = json.loads((fixtures / "parity" / family / "merged/config.json").read_text())
    assert config["architectures"] == theirs_config["architectures"]
    encoder, _ = reference.load(str(tmp_path / "merged"), str(base), dtype="float32", device="cpu")
    assert (encoder.resampler.config.heads, encoder.resampler.config.depth) == (4, 8)


def test_every_family_has_its_own_layout(tmp_path):
    tiny.save("qwen3_vl", tmp_path / "base")
    encoder = trained(tmp_path / "base")
    expected = encoder.encode(ITEMS)
    encoder.save(tmp_path / "encoder")
    merge(str(tmp_path / "encoder"), tmp_path / "merged", dtype="float32")
    parts = loaded(tmp_path / "merged", tmp_path / "base")
    torch.testing.assert_close(parts.encoder.encode(ITEMS), expected, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="the reference has no qwen3_vl, only qwen2_5_vl, qwen2_vl"):
        merge(str(tmp_path / "encoder"), tmp_path / "no", "reference")


def test_weights_that_do_not_fit(tmp_path):
    tiny.save("qwen2_5_vl", tmp_path / "base")
    weights = tmp_path / "base/model.safetensors"
    tensors = load_file(weights)
    tensors[next(name for name in tensors if name.endswith("model.norm.weight"))][0] = 1e6
    save_file(tensors, weights, metadata={"format": "pt"})
    trained(tmp_path / "base").save(tmp_path / "encoder")
    with pytest.raises(UserError, match=r"norm\.weight does not fit into torch\.float16; use float32"):
        merge(str(tmp_path / "encoder"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
