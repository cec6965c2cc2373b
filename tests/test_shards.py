"""A VLM that processes share learns what a whole one does, and each process holds no more than its part."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from accelerate import Accelerator, DistributedType
from comem_lmms.training.settings import ACCELERATE
from comem_lmms.training.shards import take_over
from helpers import launched, zero3

from comem_lmms.errors import UserError

DRIVER = Path(__file__).with_name("in_parts.py")


@pytest.mark.parametrize("kind", ["fsdp2", zero3("zero3")])
def test_every_family_in_parts(kind, tmp_path):
    """One process has images and items, the other has not even a sample."""
    for family in tiny.FAMILIES:
        (tmp_path / family).mkdir()
        tiny.save(family, tmp_path / family)
    folders = [str(tmp_path / family) for family in tiny.FAMILIES]
    done = subprocess.run(**launched("ddp", str(DRIVER), kind, *folders), timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    found = [json.loads(line) for line in re.findall(r"^COMPARED (.*)", done.stdout, re.MULTILINE)]
    assert sorted(one["folder"] for one in found) == sorted(2 * folders)
    assert {one["head"] for one in found} == {True, False}  # False where it is the embeddings as well
    assert all(one["embeddings"] for one in found if one["head"] or kind == "zero3")
    assert kind == "zero3" or not any(one["embeddings"] for one in found if not one["head"])
    assert min(max(one["largest"] for one in found if one["folder"] == folder) for folder in folders) > 1e-4
    for one in found:
        assert one["kept"] < 1e-6, one
        assert one["again"] < 1e-6, one
        assert one["hooks"] < 1e-6, one
        assert one["after"] < 1e-6, one
        assert not one["views"] or one["folder"].endswith("_moe"), one
        assert one["answers"], one  # after as many tokens as the process asked for, though the other asked for more
        assert one["unchanged"], one
        assert one["ddp"], one
        assert one["learning"] > 10, one
        assert one["saved"] > 0.49, one  # of what is cut in two
        assert not one["vision"], one


FSDP = {"ACCELERATE_USE_FSDP": "true"}
FSDP2 = {**FSDP, "FSDP_VERSION": "2"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}
ZERO3 = {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"ACCELERATE_USE_MEGATRON_LM": "true"},
            "configured for MEGATRON_LM; of what cuts up weights FSDP2 and ZeRO-3",
        ),
        (FSDP, "accelerate's fsdp_version=1 is not supported, only 2 is; as in accelerate launch"),
        ({**FSDP2, "FSDP_RESHARD_AFTER_FORWARD": "false"}, "fsdp_reshard_after_forward=false is not supported"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "True"}, "fsdp_offload_params=true is not supported, only false is"),
        (ZERO, "accelerate's deepspeed_zero_stage=2 is not supported, only 3 is; as in accelerate launch"),
        ({**ZERO3, "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, "offload_param_device=cpu is not supported"),
        ({**ZERO3, "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"}, "optimizer_device=nvme is not supported"),
        ({**ZERO3, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "/ds.json"}, "deepspeed_config_file=/ds.json is not supported"),
        ({**ZERO3, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "gradient_accumulation_steps=4 is not supported"),
        ({**ZERO3, "ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "gradient_clipping=1.0 is not supported, only none is"),
    ],
)
def test_what_is_not_supported_is_refused(given, said, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        take_over()
    assert "\n" not in str(refused.value)


def test_zero3_without_deepspeed(monkeypatch):
    for name, value in ZERO3.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match=r"ZeRO-3 needs DeepSpeed, .* pip install 'comem-lmms\[deepspeed\]'$"):
        take_over()


@pytest.mark.parametrize(("kind", "given"), [("fsdp2", FSDP2), zero3("zero3", ZERO3)])
def test_accelerate_itself_is_not_told(kind, given, monkeypatch):
    for name, value in {**given, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}.items():
        monkeypatch.setenv(name, value)
    assert take_over() == kind
    told = Accelerator(cpu=True, gradient_accumulation_steps=4)
    assert told.distributed_type == DistributedType.NO
    assert told.gradient_accumulation_steps == 4
    assert take_over() is None


def test_where_the_configurations_are(run):
    assert {path.stem for path in ACCELERATE.glob("*.yaml")} == {"ddp", "fsdp2", "zero3"}
    said = run("comem-lmms", "accelerate-config", "zero3").stdout.strip()
    assert Path(said) == ACCELERATE / "zero3.yaml"
    done = run("comem-lmms", "accelerate-config", "zero2", check=False)
    assert done.returncode == 2
    assert "no configuration of accelerate at 'zero2'; give a YAML file, or one of ddp, fsdp2, zero3" in done.stdout
