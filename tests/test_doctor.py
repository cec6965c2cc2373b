"""The doctor finds a healthy model healthy, and each illness that it looks for."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from comem_lmms import micro
from comem_lmms.cli import main
from comem_lmms.doctor import check_encoder, check_reader, diagnose
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.vlm import FrozenVLM


def failing(findings):
    return {finding.check for finding in findings if not finding.holds}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_micro_models_are_healthy(dtype):
    findings = list(diagnose(MemoryArguments(dtype=dtype), "cpu"))
    assert len(findings) == 10
    assert not failing(findings)
    assert findings[0].difference == 0


def test_a_vlm_without_an_encoder_is_checked_too(tmp_path):
    shutil.copytree(micro.resolve("micro", "vlm"), tmp_path / "vlm")
    findings = list(diagnose(MemoryArguments(pretrained=str(tmp_path / "vlm")), "cpu"))
    assert len(findings) == 7
    assert not failing(findings)


def broken(hook, on):
    vlm = FrozenVLM.load("micro", device="cpu")
    on(vlm.model).register_forward_pre_hook(hook, with_kwargs=True)
    return vlm


def shifted_in_decoding(module, args, kwargs):
    """What a wrong rope delta does: new tokens stand somewhere else."""
    if kwargs["inputs_embeds"].shape[1] == 1:
        kwargs["position_ids"] = kwargs["position_ids"] + 50
    return args, kwargs


def seen_padding(module, args, kwargs):
    """What a lost mask does."""
    kwargs["attention_mask"] = None
    return args, kwargs


def test_decoding_at_wrong_positions_is_found(chats):
    vlm = broken(shifted_in_decoding, lambda model: model.model.language_model)
    found = failing(check_reader(vlm, chats[:3]))
    assert "decoding step by step = from the whole sequence" in found
    assert "a batch = its rows" not in found


def test_padding_that_is_seen_is_found(chats):
    vlm = broken(seen_padding, lambda model: model.model.language_model)
    long = [[{"role": "user", "content": [{"type": "text", "text": "word " * 30}]}], *chats[:2]]
    assert {"a batch = its rows", "a batch with memories = its rows"} <= failing(check_reader(vlm, long))


def test_memory_in_the_wrong_place_is_found(chats, monkeypatch):
    vlm = FrozenVLM.load("micro", device="cpu")
    original = FrozenVLM.prefixed
    monkeypatch.setattr(
        FrozenVLM,
        "prefixed",
        lambda self, inputs, prefixes: original(self, inputs, prefixes and [p.flip(0) for p in prefixes]),
    )
    assert failing(check_reader(vlm, chats[:3])) == {"embeddings of a text as memory = that text"}


def test_a_resampler_that_sees_padding_is_found(encoder, knowledge, monkeypatch):
    original = encoder.resampler.forward
    monkeypatch.setattr(encoder.resampler, "forward", lambda hidden, mask: original(hidden, torch.ones_like(mask)))
    assert failing(check_encoder(encoder, [knowledge[i] for i in range(4)])) == {
        "the memory of an item = in a batch with others"
    }


def test_a_damaged_encoder_is_said_to_be_one(tmp_path, capsys):
    shutil.copytree(micro.resolve("micro", "memory_encoder"), tmp_path / "encoder")
    weights = load_file(tmp_path / "encoder/resampler.safetensors")
    weights["latents"] *= float("nan")
    save_file(weights, tmp_path / "encoder/resampler.safetensors")
    assert main(["doctor", "--model_args", f"memory_encoder={tmp_path / 'encoder'},device=cpu"]) == 2
    said = capsys.readouterr().err
    assert "2 checks fail; answers of this model cannot be trusted. Values that are not finite" in said


def test_command(run):
    healthy = run("comem-lmms", "doctor", "--model_args", "pretrained=micro,dtype=float32,device=cpu").stdout
    assert healthy.count("\nok ") == 10
    assert "all checks hold" in healthy
    wrong = run("comem-lmms", "doctor", "--model_args", "pretrained", check=False)
    assert wrong.returncode == 2
    assert "comem-lmms: --model_args 'pretrained' is not of the form name=value" in wrong.stdout
