"""lmms-eval finds models and tasks through its own doors, from an empty folder."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import as_on_the_hub

from comem_lmms import micro
from comem_lmms.fingerprints import checkpoint_fingerprint

LIMIT = ("--tasks", "microseek", "--limit", "4", "--batch_size", "4", "--output_path", "out", "--log_samples")


def accuracy(folder: Path) -> dict[str, float]:
    """By model, from the result files."""
    runs = [json.loads(path.read_text()) for path in folder.rglob("*_results.json")]
    return {run["config"]["model"]: run["results"]["microseek"]["exact_match,none"] for run in runs}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "door",
    [
        ("lmms-eval",),
        ("lmms-eval", "eval"),
        ("python", "-m", "lmms_eval"),
        ("accelerate", "launch", "--num_processes", "1", "--cpu", "-m", "lmms_eval"),
    ],
    ids=" ".join,
)
def test_doors(run, tmp_path, door):
    run(*door, "--model", "comem", *LIMIT, "--limit", "5")
    assert accuracy(tmp_path)["comem"] >= 0.6  # guessing gives 1 in 40


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("baseline", ""),
        ("vanilla_rag", "top_k=2"),
        ("comem", "top_k=2"),
        ("comem", "memory_bank=bank,memory_encoder=micro"),
    ],
)
def test_two_processes_answer_as_one(run, tmp_path, model, arguments):
    asked = ["--model", model, "--model_args", f"{arguments},device=cpu".strip(","), *LIMIT, "--limit", "9"]
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "29518"]
    launch += ["-m", "lmms_eval", *asked, "--output_path", "two"]
    said = run(*launch, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1").stdout
    assert "Rank 1: loading datasets from warm cache" in said
    shutil.rmtree(tmp_path / "bank", ignore_errors=True)
    run("lmms-eval", *asked, "--output_path", "one")
    one, two = (
        {
            line["doc_id"]: line["filtered_resps"]
            for path in tmp_path.glob(f"{name}/**/*_samples_*.jsonl")
            for line in lines(path)
        }
        for name in ("one", "two")
    )
    assert len(one) == 9
    assert one == two


@pytest.mark.parametrize("model", ["baseline", "vanilla_rag"])
def test_other_models(run, tmp_path, model):
    run("lmms-eval", "--model", model, *LIMIT)
    assert set(accuracy(tmp_path)) == {model}


def test_lists(run):
    models = run("lmms-eval", "models").stdout
    assert all(re.search(rf"^{name} +chat", models, re.M) for name in ("baseline", "vanilla_rag", "comem"))
    assert re.search(r"^ - microseek$", run("lmms-eval", "--tasks", "list").stdout, re.M)


def test_server_finds_them(run):
    """The server's two lists, through its own functions; it starts evaluations with the doors above."""
    program = (
        "import asyncio\n"
        "from lmms_eval.entrypoints import http_server as server\n"
        "models = asyncio.run(server.list_available_models())\n"
        "tasks = asyncio.run(server.list_available_tasks())\n"
        "assert 'comem' in str(models), models\n"
        "assert 'microseek' in str(tasks), tasks\n"
    )
    run("python", "-c", program)


def test_bad_argument_is_the_last_line_and_an_exit_status(run):
    done = run("lmms-eval", "--model", "comem", "--model_args", "topk=5", *LIMIT, check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("comem-lmms: unknown model argument topk=5; known: pretrained")
    assert "Traceback" not in done.stdout


def test_bad_argument_does_not_cost_the_evaluations_after_it(run, tmp_path):
    runs = [{"model": "baseline", "tasks": "microseek", "limit": 2, "model_args": args} for args in ("topk=5", "")]
    (tmp_path / "runs.yaml").write_text(json.dumps(runs))
    said = run("lmms-eval", "--config", "runs.yaml").stdout
    line = "unknown model argument topk=5; known: pretrained"
    assert said.index(line) < said.index("Traceback") < said.index("|microseek|")


def test_a_killed_run_resumes(tmp_path):
    """kill -9 in the middle, the same command again: what was answered is not asked again."""
    command = [Path(sys.executable).parent / "lmms-eval", "--model", "vanilla_rag", "--tasks", "microseek"]
    command += ["--batch_size", "1", "--use_cache", "cache", "--output_path", "out", "--log_samples"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    # Two answers, since the last line may be written before the database.
    while not (audit := [*tmp_path.glob("cache/runs/*/rank_0.audit.jsonl")]) or audit[0].read_text().count("\n") < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(audit[0].read_text().splitlines())
    assert 1 < kept < 384
    again = subprocess.run(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    found = int(re.search(r"resuming: (\d+) answers found", again.stdout).group(1))
    assert found >= kept - 1
    (own,) = set(tmp_path.glob("cache/runs/*/rank_0.audit.jsonl")) - set(audit)
    assert len(own.read_text().splitlines()) == 384 - found  # nothing else was asked
    assert accuracy(tmp_path)["vanilla_rag"] > 0.9


def test_vlm_and_memory_encoder_from_the_hub(run, tmp_path):
    """By their ids; what answers has the fingerprint that it has in a folder."""
    as_on_the_hub(Path(micro.resolve("micro", "vlm")), tmp_path / "hub", "owner/vlm")
    as_on_the_hub(Path(micro.resolve("micro", "memory_encoder")), tmp_path / "hub", "owner/encoder")
    command = "lmms-eval --model comem --tasks microseek --limit 2 --log_samples --output_path out --model_args"
    arguments = "pretrained=owner/vlm,memory_encoder=owner/encoder"
    run(*command.split(), arguments, HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
    (samples,) = (tmp_path / "out").rglob("*samples*.jsonl")
    assert f'"vlm": "{checkpoint_fingerprint("micro")[:16]}"' in samples.read_text()
