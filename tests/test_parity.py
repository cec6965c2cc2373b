"""What the reference computed is what we compute; its fixtures are compared through the command line."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from comem_lmms.parity import Check


@pytest.fixture
def parity(fixtures):
    return fixtures / "parity"


def test_every_quantity_agrees(run, parity):
    printed = run("python", "-m", "comem_lmms.parity", str(parity)).stdout
    assert " DIFFERS" not in printed
    n = printed.count("  ok\n")
    assert n == 496
    assert f"{n} of {n} quantities agree with the reference" in printed


def test_a_difference_is_seen(run, parity, tmp_path):
    """One number of one file changed, by more than is allowed."""
    folder = tmp_path / "changed"
    shutil.copytree(parity, folder)
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder / "qwen2_vl")
    shutil.rmtree(folder / "train")
    shutil.rmtree(folder / "qwen2_5_llm")
    changed = folder / "qwen2_5_vl/encoder_k1.safetensors"
    tensors = load_file(changed)
    tensors["memory"] += 2e-4
    save_file(tensors, changed)
    done = run("python", "-m", "comem_lmms.parity", str(folder), check=False)
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.endswith("DIFFERS")]
    assert "has no qwen2_5_llm, qwen2_vl, train\n" in done.stdout
    assert [line.split()[:3] for line in wrong] == [["qwen2_5_vl", "encoder_k1", "memory"]]


@pytest.mark.parametrize(
    ("part", "kept", "said"),
    [
        ("qwen2_vl", "merged", "nothing to compare in qwen2_vl: the outputs of the reference are missing"),
        ("train", "nothing", "is incomplete ("),
    ],
)
def test_a_part_without_outputs_is_no_agreement(run, parity, tmp_path, part, kept, said):
    folder = tmp_path / "part"
    for name in ("base", "inputs", "qformer"):
        shutil.copytree(parity / name, folder / name)
    (folder / part).mkdir()
    if (parity / part / kept).is_dir():
        shutil.copytree(parity / part / kept, folder / part / kept)
    done = run("python", "-m", "comem_lmms.parity", str(folder), check=False)
    assert done.returncode == 1
    assert said in done.stdout
    assert "Traceback" not in done.stdout


def test_a_missing_quantity_is_no_agreement():
    assert not Check("x", float("nan"), 1.0).holds
    assert not Check("x", float("inf"), 1.0).holds


def test_another_folder_is_refused(run, tmp_path):
    done = run("python", "-m", "comem_lmms.parity", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "holds no inputs/inputs.json" in done.stdout
