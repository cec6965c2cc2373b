"""The benchmark of linking: what it stores is what the document says, and a part that fails loses no other."""

import json
import string
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = ("[UNK]", "[CLS]", "[SEP]", "image", "shows", "which", "known", "house", "oslo", "river", "bird", "park")


@pytest.fixture(scope="module")
def linking():
    spec = util.spec_from_file_location("linking_benchmark", ROOT / "benchmarks/linking.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    letters = [f"{start}{letter}" for start in ("", "##") for letter in string.ascii_lowercase + string.digits]
    path.write_text("\n".join((*WORDS, *letters)) + "\n")
    return path


@pytest.fixture
def stored(linking):
    return json.loads(linking.MEASURED.read_text())


def test_the_document_says_what_was_measured(linking, stored):
    assert linking.block(stored) in linking.DOCUMENT.read_text()


def test_a_whole_run(linking, vocabulary, tmp_path):
    before = linking.DOCUMENT.read_text()
    sizes = ["--titles", "300", "--few", "100", "--vocabulary", vocabulary]
    command = [sys.executable, linking.__file__, *sizes, "--folder", tmp_path, "--out", tmp_path / "out.json"]
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    record = json.loads((tmp_path / "out.json").read_text())
    assert linking.block(record) == done.stdout.rstrip("\n")
    assert linking.DOCUMENT.read_text() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]
    assert all(one["same"] == one["of"] for one in record["agreement"].values())
    assert len(record["agreement"]) == 3
    assert 0 < record["query-all"]["own_gb"] < record["query-all"]["resident_gb"] <= record["query-all"]["peak_gb"] < 4
    met = {one["aim"]: one["met"] for one in record["aims"]}
    assert len(met) == len(linking.FORMS) + 4
    assert all(met[aim] for aim in met if "resident" in aim or "same" in aim)
    assert "failed" not in record


def test_rank_bm25_gets_fewer_titles_where_it_fails(linking, vocabulary, tmp_path):
    asked = {"titles": 100}
    run = linking.Run(tmp_path, vocabulary, asked)
    run.part("write", "write", 100, 20)
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    (tmp_path / "all.jsonl").write_text("\n".join([*lines[:80], "none", *lines[80:]]))
    run.fewer("okapi-all", "okapi", "all", 100, 20)
    again = linking.Run(tmp_path, vocabulary, asked)
    assert again.record["okapi-all"]["titles"] == 50
    assert again.record["failed"] == [{"titles": 100, "why": "exit status 1"}]
    (tmp_path / "all.jsonl").unlink()
    again.part("write", "write", 100, 20)
    assert not (tmp_path / "all.jsonl").exists()  # it was written before
    with pytest.raises(subprocess.CalledProcessError):
        again.fewer("okapi-other", "okapi", "all", 100, 20)
    assert [tried["titles"] for tried in linking.Run(tmp_path, vocabulary, asked).record["failed"]] == [100, 50, 25]
    with pytest.raises(SystemExit, match="holds a part of a measurement"):
        linking.Run(tmp_path, vocabulary, {"titles": 200})


def test_what_fewer_titles_took_is_taken_times_as_many(linking, stored):
    half = {**stored, "failed": [{"titles": 6_000_000, "why": "exit status -9"}]}
    half["okapi-all"] = {**stored["okapi-all"], "titles": stored["okapi-all"]["titles"] // 2}
    for form, ratio in linking.ratios(half).items():
        assert ratio == pytest.approx(2 * linking.ratios(stored)[form])
    assert "rank_bm25 over 3,000,000 |" in linking.block(half)
    assert "Over 6,000,000 it failed (exit status -9)." in linking.block(half)


def test_aims_are_missed_or_met(linking, stored):
    stored["query-all"]["peak_gb"] = 4.5
    stored["agreement"] = {"rank_bm25": {"same": 2984, "of": 3000}}
    stored["query-all"]["per_second"] = {form: 999 * rate for form, rate in stored["okapi-all"]["per_second"].items()}
    assert [met for _, _, met in linking.aims(stored)] == [False] * 5 + [True, False, False]
    stored["agreement"]["rank_bm25"]["same"] = 2985
    stored["query-all"]["per_second"] = {form: 1001 * rate for form, rate in stored["okapi-all"]["per_second"].items()}
    assert [met for _, _, met in linking.aims(stored)] == [True] * 5 + [True, False, True]
