"""A VLM that processes share learns what a whole one does, and each process holds no more than its part."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import tiny
from accelerate import Accelerator, DistributedType
from comem_lmms.training.settings import ACCELERATE
from comem_lmms.training.shards import take_over
from helpers import launched

from comem_lmms.errors import UserError

DRIVER = Path(__file__).with_name("in_parts.py")


def test_every_family_in_parts(tmp_path):
    """One process has images and items, the other has not even a sample."""
    for family in tiny.FAMILIES:
        (tmp_path / family).mkdir()
        tiny.save(family, tmp_path / family)
    folders = [str(tmp_path / family) for family in tiny.FAMILIES]
    done = subprocess.run(**launched("ddp", str(DRIVER), *folders), timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    found = [json.loads(line) for line in re.findall(r"^COMPARED (.*)", done.stdout, re.MULTILINE)]
    assert sorted(one["folder"] for one in found) == sorted(2 * folders)
    assert {one["head"] for one in found} == {True, False}  # embeddings that are the head's as well stay whole
    assert min(max(one["largest"] for one in found if one["folder"] == folder) for folder in folders) > 1e-4
    for one in found:
        assert one["kept"] < 1e-6, one
        assert one["again"] < 1e-6, one
        assert one["answers"], one  # after as many tokens as the process asked for, though the other asked for more
        assert one["unchanged"], one
        assert one["ddp"], one
        assert one["learning"] > 10, one
        assert one["saved"] > 0.49, one  # of what is cut in two
        assert not one["vision"], one


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"DEEPSPEED": "true"}, "accelerate is configured for DEEPSPEED; of what cuts up weights FSDP2 is supported"),
        ({"MEGATRON_LM": "true"}, "configured for MEGATRON_LM"),
        (
            {"FSDP": "true"},
            "accelerate's fsdp_version=1 is not supported, only 2 is; as in accelerate launch",
        ),
        ({"FSDP": "true", "FSDP_RESHARD_AFTER_FORWARD": "false"}, "fsdp_reshard_after_forward=false is not supported"),
        ({"FSDP": "true", "FSDP_OFFLOAD_PARAMS": "True"}, "fsdp_offload_params=true is not supported, only false is"),
    ],
)
def test_what_is_not_supported_is_refused(given, said, monkeypatch):
    if len(given) > 1:
        monkeypatch.setenv("FSDP_VERSION", "2")
    for name, value in given.items():
        monkeypatch.setenv(name if name.startswith("FSDP_") else f"ACCELERATE_USE_{name}", value)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        take_over()
    assert "\n" not in str(refused.value)


def test_accelerate_itself_is_not_told(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert take_over()
    assert Accelerator(cpu=True).distributed_type == DistributedType.NO
    assert not take_over()


def test_where_the_configurations_are(run):
    assert {path.stem for path in ACCELERATE.glob("*.yaml")} == {"ddp", "fsdp2"}
    said = run("comem-lmms", "accelerate-config", "fsdp2").stdout.strip()
    assert Path(said) == ACCELERATE / "fsdp2.yaml"
    done = run("comem-lmms", "accelerate-config", "zero3", check=False)
    assert done.returncode == 2
    assert "no configuration of accelerate at 'zero3'; give a YAML file, or one of ddp, fsdp2" in done.stdout
