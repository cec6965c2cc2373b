"""The wheel holds everything and works from an empty folder."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDERS = {"comem_lmms": "comem_lmms", "tasks": "comem_lmms/tasks", "training": "comem_lmms/training"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, since setuptools builds in place and reuses what an earlier build left
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = folder.glob("comem_lmms-*.whl")
    return path


def files(folder: str) -> list[Path]:
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path.relative_to(ROOT) for path in paths]


def test_wheel_holds_every_file(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"{target}/{path.relative_to(name)}" for name, target in FOLDERS.items() for path in files(name)}
    assert len(expected) > 50
    assert {name for name in inside if ".dist-info/" not in name} == expected


def test_every_folder_is_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        str(Path(target) / path.parent.relative_to(name)).replace("/", ".")
        for name, target in FOLDERS.items()
        for path in files(name)
        if path.suffix == ".py"
    }
    assert listed == found


def test_bundled_weights_are_small():
    weights = [ROOT / path for path in files("comem_lmms/micro") if path.suffix == ".safetensors"]
    assert len(weights) == 4
    assert sum(path.stat().st_size for path in weights) <= 15e6


def test_installed_wheel_works_from_an_empty_folder(wheel, tmp_path):
    """In an environment of its own, which sees the dependencies of this one but not this checkout."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    site = next((home / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    check = "import comem_lmms, comem_lmms.tasks as t; print(comem_lmms.__file__, t.__file__)"
    where = subprocess.run([home / "bin/python", "-c", check], cwd=empty, check=True, capture_output=True, text=True)
    assert where.stdout.count(str(site)) == 2
    for model in ("baseline", "vanilla_rag", "comem"):
        command = ["-m", "lmms_eval", "--model", model, "--tasks", "microseek", "--limit", "4", "--output_path", "out"]
        done = subprocess.run([home / "bin/python", *command], cwd=empty, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = [json.loads(path.read_text()) for path in empty.rglob("*_results.json")]
    assert {run["config"]["model"] for run in runs} == {"baseline", "vanilla_rag", "comem"}
    assert str(site) in runs[0]["configs"]["microseek"]["dataset_kwargs"]["data_files"]["test"]
