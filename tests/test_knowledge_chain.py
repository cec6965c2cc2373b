"""From rows of WIT and a host that fails to answers, by the commands of the README, each killed on its way."""

import io
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wit_rows
from hosting import hosting
from PIL import Image

from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.report import read_rows
from comem_lmms.retrieval import Embeddings, Index
from comem_lmms.runs import Run

OTHERS = 1500  # rows that no question is about
LIMIT = 16


@pytest.fixture(scope="module")
def world(tmp_path_factory, knowledge):
    """MicroSeek's realms as rows of WIT among others, their emblems on a host, and what is made without a break."""
    folder, rng = tmp_path_factory.mktemp("chain"), random.Random(3)
    with hosting() as host:
        records = list(wit_rows.lines(OTHERS, f"{host.url}/other/{{}}.jpg", 60, seed=3, broken=0.05))
        for row in map(knowledge.row, range(len(knowledge))):
            path = f"/{row.id}.bmp"
            host.files[path] = row.image
            cells = wit_rows.cells(rng, 0, host.url + path)
            cells |= {"language": "en", "page_title": row.title, "context_section_description": row.text}
            records.append(wit_rows.Line(wit_rows.written(list(cells.values())), host.url + path, None))
        for number, path in enumerate(rng.sample(sorted(host.files), 30)):
            if number < 12:
                host.faults[path] = [((429, {"Retry-After": "1"}), 40, (503, {}))[number % 3]]
            elif number >= 20:  # a page in place of the image, an image that is cut off
                host.files[path] = host.files[path][:-90] if number % 2 else b"<html></html>"
        for number in range(60):
            picture = io.BytesIO()
            Image.new("RGB", (40, 30), (4 * number, 100, 200 - number)).save(picture, "JPEG")
            host.files[f"/other/{number}.jpg"] = picture.getvalue()
        rng.shuffle(records)
        wit_rows.write(folder / "wit.tsv.gz", records)
        faults = {path: list(faults) for path, faults in host.faults.items()}
        for command in commands(folder, "whole"):
            subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        yield host, folder, faults


def commands(folder: Path, name: str) -> list[list[str]]:
    kb, program = f"{name}/kb", str(Path(sys.executable).parent / "comem-lmms")
    source = ["--source", str(folder / "wit.tsv.gz"), "--contact", "me@example.org", "--rate", "10000"]
    return [
        [program, "kb", "build", *source, "--out", kb],
        [program, "kb", "embed", kb, "--clip", "micro", "--workers", "0"],
        [program, "kb", "index", kb],
        [program, "retrieve", kb, "--tasks", "microseek", "--top-k", "3", "--out", f"{name}/run"],
    ]


def fingerprints(folder: Path) -> list[str]:
    base = KnowledgeBase.open(folder / "kb")
    index = Index.open(base).about
    return [base.fingerprint, Embeddings.open(base).fingerprint, index["index"], Run.open(folder / "run").fingerprint]


def test_kill_9_on_the_way_changes_nothing(world):
    host, folder, faults = world
    host.faults |= {path: list(these) for path, these in faults.items()}
    rng = random.Random(4)
    for command in commands(folder, "killed"):
        for _ in range(2 if "build" in command else 1):
            process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(3, 14))
            process.send_signal(signal.SIGKILL)
            if process.wait() == 0:
                break
        if process.returncode:
            subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    assert fingerprints(folder / "killed") == fingerprints(folder / "whole")


def test_answers_are_those_of_the_bundled_base(world, knowledge, run, tmp_path):
    """But where an emblem never came."""
    _, folder, _ = world
    base = KnowledgeBase.open(folder / "whole/kb")
    rejects = base.manifest["rejects"]
    assert (rejects["not_an_image"], rejects["image_damaged"]) == (5, 5)
    command = ["lmms-eval", "--tasks", "microseek", "--limit", str(LIMIT), "--batch_size", "8", "--log_samples"]
    arguments = f"knowledge={folder}/whole/kb,retrieval={folder}/whole/run"
    given = {}
    for name, more in (("own", ["--model_args", arguments]), ("bundled", [])):
        run(*command, "--model", "vanilla_rag", *more, "--output_path", name)
        (samples,) = (tmp_path / name).rglob("*_samples_*.jsonl")
        lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda line: line["doc_id"])
        given[name] = [(line["token_counts"][0]["retrieved"], line["filtered_resps"]) for line in lines]
    titles = [[base.row(base.find(id_)).title for id_ in ids] for ids, _ in given["own"]]
    there = {base.row(row).title for row in range(len(base))}
    alike = 0
    for titles_, (_, answer), (ids, expected) in zip(titles, given["own"], given["bundled"], strict=True):
        wanted = [knowledge.row(knowledge.find(id_)).title for id_ in ids]
        if wanted[0] in there:
            assert titles_[0] == wanted[0]
        if titles_ == wanted:
            assert answer == expected
            alike += 1
    assert alike > LIMIT // 2
    assert read_rows(tmp_path / "own")[0].accuracy > 90
