"""An index of titles in a folder is the one in memory, whoever opens it, and is there whole or not at all."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import evaluate, register, spoiled_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comem_lmms.cli import main
from comem_lmms.errors import UserError
from comem_lmms.linking import Entity, TitleIndex, shared
from comem_lmms.linking.saved import MANIFEST, NAMES

WORDS = ("[UNK]", "[CLS]", "[SEP]", "oslo", "bar", "##bar", "##s", "park", "house", "of", "bird", "old", "?")
TITLES = ("Oslo", "Barbar", "Park of Oslo", "House of Bar", "Oslo Park", "Parks", "Österreich", "", "Old \ud800 bird")
TEXTS = (*TITLES, "the old house of birds in Oslo", "park park park", "oslo bar house", "of", "Zürich")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert") / "words.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


def write(file, titles, keys=("wikidata_id", "wikipedia_title")):
    """A file of titles, as OVEN's."""
    file.write_text("".join(json.dumps(dict(zip(keys, one, strict=True))) + "\n" for one in entities(titles)))
    return file


def entities(titles) -> list[Entity]:
    return [Entity(f"Q{i}", title) for i, title in enumerate(titles)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, vocabulary):
    home = tmp_path_factory.mktemp("titles")
    TitleIndex.build(write(home / "titles.jsonl", TITLES), home / "index", vocabulary)
    return home / "index"


def test_it_finds_what_the_one_in_memory_finds(folder, vocabulary):
    saved, memory = TitleIndex.open(folder), TitleIndex.of(entities(TITLES), vocabulary)
    assert len(saved) == len(memory) == len(TITLES)
    for text in TEXTS:
        assert saved.search(text) == memory.search(text)
    assert saved.link("old bird") == ("Q8", "Old ? bird", pytest.approx(saved.link("old bird").score))


TITLE = st.lists(st.sampled_from(("Oslo", "barbar", "bars", "park", "House", "of", "bird", "Zürich", "")), max_size=5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TITLE.map(" ".join), min_size=1, max_size=9), TITLE.map(" ".join), st.integers(1, 9))
def test_whatever_the_titles_are(tmp_path, vocabulary, titles, text, k):
    shutil.rmtree(tmp_path / "index", ignore_errors=True)
    saved = TitleIndex.build(write(tmp_path / "titles.jsonl", titles), tmp_path / "index", vocabulary)
    assert saved.search(text, k) == TitleIndex.of(entities(titles), vocabulary).search(text, k)


def test_the_older_keys_are_the_same(folder, tmp_path, vocabulary):
    older = TitleIndex.build(write(tmp_path / "t.jsonl", TITLES, ("id", "content")), tmp_path / "i", vocabulary)
    assert [older.search(text) for text in TEXTS] == [TitleIndex.open(folder).search(text) for text in TEXTS]


def test_it_says_what_it_is_and_needs_no_other_file(folder, vocabulary):
    about = json.loads((folder / MANIFEST).read_text())
    assert about["titles"] == len(TITLES)
    source = folder.parent / "titles.jsonl"
    assert (about["source"], about["source_sha256"]) == (source.name, hashlib.sha256(source.read_bytes()).hexdigest())
    assert about["vocabulary_sha256"] == hashlib.sha256(vocabulary.read_bytes()).hexdigest()
    assert about["bm25"] == {"k1": 1.5, "b": 0.75, "epsilon": 0.25}
    assert (folder / "vocab.txt").read_bytes() == vocabulary.read_bytes()
    assert {file.name for file in folder.iterdir()} == {MANIFEST, "vocab.txt", *(f"{name}.npy" for name in NAMES)}


def test_arrays_are_mapped_not_read(folder):
    for array in TitleIndex.open(folder).postings:
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable


def test_threads_find_what_one_finds(folder):
    index = TitleIndex.open(folder)
    expected = [index.search(text) for text in TEXTS]
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: [index.search(text) for text in TEXTS], range(64)):
            assert found == expected
    assert shared(str(folder)) is shared(str(folder))


def test_processes_find_what_one_finds(folder):
    command = [sys.executable, "-m", "comem_lmms.cli", "link", "query", str(folder), "old house"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0] for process in running)
    assert first == second
    assert "House of Bar" in first


LINKING = """

def process_results(doc, results):
    from comem_lmms.linking import shared
    assert shared({folder!r}).link(results[0]).title == results[0]
    return {{"exact_match": 1.0}}
"""


def test_lmms_eval_links_answers_in_its_threads(tmp_path, questions):
    task = tmp_path / "task"
    task.mkdir()
    manager = spoiled_task(task, questions, questions[2]["image"])
    file = write(tmp_path / "titles.jsonl", [f"answer {i}" for i in range(4)])
    (tmp_path / "digits.txt").write_text("\n".join(("[UNK]", "[CLS]", "[SEP]", "answer", *"0123")) + "\n")
    TitleIndex.build(file, tmp_path / "index", tmp_path / "digits.txt")
    with (task / "utils.py").open("a") as utils:
        utils.write(LINKING.format(folder=str(tmp_path / "index")))
    register("recorder", "simple", "helpers.Recorder")
    run = evaluate("recorder", ("spoiled",), task_manager=manager, process_docs_parallel=4)
    assert run["results"]["spoiled"]["exact_match,none"] == 1.0


def killed(file, out, vocabulary, seconds):
    """A build that is killed so long after it began to write."""
    command = [sys.executable, "-m", "comem_lmms.cli", "link", "build", file, "--out", out, "--vocabulary", vocabulary]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.parent.glob("index.partial-*")) and not out.exists():
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.5])
def test_a_killed_build_leaves_nothing_that_opens(tmp_path, vocabulary, seconds):
    titles = [f"{one} {i}" for i, one in enumerate(TITLES * 20_000)]
    file, out = write(tmp_path / "titles.jsonl", titles), tmp_path / "index"
    killed(file, out, vocabulary, seconds)
    for left in (out, *tmp_path.glob("index.partial-*")):
        with pytest.raises(UserError, match=r"manifest\.json is missing"):
            TitleIndex.open(left)
    write(file, TITLES)
    assert len(TitleIndex.build(file, out, vocabulary)) == len(TITLES)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no title to index"),
        ("\n\n", "no title to index"),
        ('{"id": "Q1", "content": "Oslo"}\n{"id": "Q2", "content"', r"line 2 is not JSON"),
        ('{"id": "Q1", "title": "Oslo"}\n', r"line 1 holds \['id', 'title'\], not .*'wikipedia_title'"),
        ('{"id": 1, "content": "Oslo"}\n', r"line 1 holds"),
        ('["Q1", "Oslo"]\n', r"line 1 holds a list"),
        ('{"id": "Q1", "content": "\xff"}\n', r"line 1 is not JSON"),
    ],
)
def test_files_that_hold_no_titles_are_refused(tmp_path, vocabulary, content, complaint):
    file = tmp_path / "titles.jsonl"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=complaint):
        TitleIndex.build(file, tmp_path / "index", vocabulary)
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_missing_or_in_the_way_is_named(folder, tmp_path, vocabulary, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = folder.parent / "titles.jsonl"
    with pytest.raises(UserError, match=r"no file of titles .*none\.jsonl"):
        TitleIndex.build(tmp_path / "none.jsonl", tmp_path / "index", vocabulary)
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist"):
        TitleIndex.build(file, tmp_path / "index", tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="is there already; remove it"):
        TitleIndex.build(file, folder, vocabulary)
    with pytest.raises(UserError, match="cannot make a folder"):
        TitleIndex.build(file, file / "index", vocabulary)
    with pytest.raises(UserError, match=r"bert-base-uncased cannot be had .* --vocabulary"):
        TitleIndex.build(file, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "index")


@pytest.mark.parametrize("name", NAMES)
def test_arrays_that_are_cut_off_or_of_another_index_are_refused(damaged, name):
    file = damaged / f"{name}.npy"
    whole = file.read_bytes()
    for content in (b"", whole[:40], whole[:-1]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.npy is missing or cut off .* build it again"):
            TitleIndex.open(damaged)
    file.write_bytes(whole)
    np.save(file, np.load(file)[:-1])
    with pytest.raises(UserError, match=rf"{name}\.npy is not the one"):
        TitleIndex.open(damaged)
    file.unlink()
    with pytest.raises(UserError, match=rf"{name}\.npy is missing"):
        TitleIndex.open(damaged)


def test_other_formats_and_vocabularies_are_refused(damaged):
    about = json.loads((damaged / MANIFEST).read_text())
    (damaged / MANIFEST).write_text(json.dumps({**about, "format": 1}))
    with pytest.raises(UserError, match="has format 1, this version reads 2; remove the folder and build it again"):
        TitleIndex.open(damaged)
    (damaged / MANIFEST).write_text(json.dumps(about))
    (damaged / "vocab.txt").write_text("[UNK]\noslo\n")
    with pytest.raises(UserError, match=r"vocab\.txt is missing, or is not the one"):
        TitleIndex.open(damaged)


def test_the_commands(tmp_path, vocabulary, capsys):
    file, out = write(tmp_path / "titles.jsonl", TITLES), tmp_path / "index"
    assert main(["link", "build", str(file), "--out", str(out), "--vocabulary", str(vocabulary)]) == 0
    assert f"{out}: {len(TITLES)} titles" in capsys.readouterr().out
    assert main(["link", "query", str(out), "oslo park", "--top-k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=2)[1:] for line in lines] == [["Q4", "Oslo Park"], ["Q2", "Park of Oslo"]]
    assert main(["link", "query", str(out), "oslo", "", "--linker", "fuzzy", "--top-k", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["'oslo':", " 100.0000  Q0  Oslo", "'':", "linked to nothing"]
    assert main(["link", "query", str(tmp_path), "oslo"]) == 2
    assert "no index of titles" in capsys.readouterr().err
