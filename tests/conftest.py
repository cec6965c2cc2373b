"""What tests share: the bundled micro models, small knowledge bases, the harness in this process and in another."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported, which reads it once

import pytest
import torch
from helpers import chat

# In the background a shell has the suite ignore control-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Reference outputs."""
    return _shared("fixtures")


@pytest.fixture(scope="session")
def real_rows() -> Path:
    """Question rows of InfoSeek and OVEN as published, without images."""
    return _shared("data")


@pytest.fixture(scope="session")
def spec() -> Path:
    """What the reference's prompts and benchmarks are."""
    return _shared("spec")


def _shared(name: str) -> Path:
    """A folder that is not part of a clone; its absence fails where CI=true."""
    if not (folder := SHARED / name).is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{folder} is missing")
        pytest.skip(f"{folder} is not part of a clone")
    return folder


@pytest.fixture(scope="session")
def knowledge():
    """MicroSeek's knowledge base."""
    from comem_lmms import micro
    from comem_lmms.knowledge import KnowledgeBase

    return KnowledgeBase.open(micro.resolve("micro", "knowledge"))


@pytest.fixture(scope="session")
def vlm():
    """The micro VLM, without any adapter."""
    from comem_lmms.vlm import FrozenVLM

    return FrozenVLM.load("micro", device="cpu")


@pytest.fixture(scope="session")
def encoder():
    """The micro memory encoder on a VLM of its own."""
    from comem_lmms.encoder import MemoryEncoder
    from comem_lmms.vlm import FrozenVLM

    return MemoryEncoder.load("micro", FrozenVLM.load("micro", device="cpu"))


@pytest.fixture(scope="session")
def questions() -> list[dict]:
    """MicroSeek's test documents."""
    import datasets

    return list(datasets.load_dataset("parquet", data_files=str(ROOT / "tasks/microseek/test.parquet"), split="train"))


@pytest.fixture(scope="session")
def chats(questions: list[dict]) -> list[list[dict]]:
    """Some questions as chats, of different lengths."""
    return [chat(q["question"], q["image"]) for q in questions[:8]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command of this environment from an empty folder, without PYTHONPATH; output and errors together."""

    def run_(
        *command: str, cwd: Path = tmp_path, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess:
        program = Path(sys.executable).parent / command[0]
        done = subprocess.run(
            [str(program), *command[1:]],
            cwd=cwd,
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        if check:
            assert done.returncode == 0, done.stdout[-4000:]
        return done

    return run_


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, that of the system or of playwright."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed (pip install playwright)")
    with sync_playwright() as started:
        try:
            found = shutil.which("chromium") or shutil.which("google-chrome")
            chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"Chromium cannot be started (apt install chromium): {str(error)[:200]}")
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
