"""Recorded scores of the original scorers are replayed through the command line, and a difference is seen."""

import json
import shutil

import pytest

from comem_lmms.scoring.replay.__main__ import main
from comem_lmms.scoring.replay.recorded import Compared, same


@pytest.fixture
def recorded(fixtures):
    return fixtures / "scoring"


@pytest.fixture
def copied(recorded, tmp_path):
    """The first rows of each file, which may be changed, beside their vocabulary."""
    shutil.copytree(recorded.parent / "bert-base-uncased", tmp_path / "bert-base-uncased")
    folder = tmp_path / "scoring"
    folder.mkdir()
    for path in recorded.glob("*.json*"):
        if "infoseek_aggregate" not in path.name:
            whole = "aggregate" in path.name or path.name == "oven_mini_corpus.jsonl" or path.suffix == ".json"
            lines = path.read_text("utf-8").split("\n")
            kept = [line for line in lines if '"infoseek_aggregate' not in line]
            (folder / path.name).write_text("\n".join(kept if whole else kept[:40]), "utf-8")
    return folder


def replayed(folder, monkeypatch, capsys, *options) -> tuple[object, str]:
    monkeypatch.setattr("sys.argv", ["replay", str(folder), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().out


def test_every_recorded_score_is_ours(run, recorded):
    printed = run("python", "-m", "comem_lmms.scoring.replay", str(recorded)).stdout
    lines = [line.split() for line in printed.splitlines()[1:]]
    assert lines[-1][:5] == ["total", "10838", "10709", "0", "129"]
    files = {path.name for path in recorded.iterdir()} - {"README.md", "oven_mini_corpus.jsonl", "aggregates.jsonl"}
    assert {line[0] for line in lines[:-1]} == files


def test_only_ties_are_exempt(recorded, monkeypatch, capsys):
    code, printed = replayed(recorded, monkeypatch, capsys)
    assert code == 0
    lines = printed.splitlines()[1:-1]
    unparsed = [line.split()[1] for line in lines if "unparsed, as recorded" in line]
    assert unparsed == ["official", "official_fixed_index2ans", "reference"]
    exempt = [(line.split()[0], line.split()[5]) for line in lines if "tied at the top" in line]
    ties = list(map(json.loads, filter(None, (recorded / "oven.jsonl").read_text("utf-8").split("\n"))))
    by_scorer = [sum(row["top1_tie"] for row in ties if row["scorer"] == name) for name in ("official", "reference")]
    assert exempt == [("oven.jsonl", str(number)) for number in by_scorer]
    assert sum(by_scorer) == int(printed.splitlines()[-1].split()[4])


def edit(path, change) -> None:
    lines = path.read_text("utf-8").split("\n")
    row = json.loads(lines[0])
    change(row)
    lines[0] = json.dumps(row)
    path.write_text("\n".join(lines), "utf-8")


ROW_FILES = ("infoseek", "infoseek_multilingual", "ok_vqa", "a_okvqa", "viquae", "mrag_bench", "cvqa", "oven")


@pytest.mark.parametrize("name", ROW_FILES)
def test_a_changed_score_is_seen(copied, monkeypatch, capsys, name):
    edit(copied / f"{name}.jsonl", lambda row: row.update(score=0.5))
    code, printed = replayed(copied, monkeypatch, capsys)
    assert code == 1
    assert "0.5" in next(line for line in printed.splitlines() if line.startswith("    id "))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("functions", lambda row: row.update(output="something else")),
        ("functions", lambda row: row.update(function="unheard of")),
        ("oven", lambda row: row["bm25_top5_scores"].__setitem__(4, 6.3622)),
        ("oven", lambda row: row["bm25_top5"].__setitem__(0, ["Oslo", "Q585"])),
        ("oven", lambda row: row.update(scorer="unheard of")),
        ("infoseek_val_qtype_derived", lambda row: row.update(question_type="Time", data_id="infoseek_val_00003425")),
        ("ok_vqa_aggregate", lambda row: row.update(prediction="twin")),
        ("aggregates", lambda row: row["result"].update(overall_micro=50.9)),
        ("aggregates", lambda row: row["result"]["per_language"].update(Breton=50.0)),
        ("aggregates", lambda row: row.update(scorer="unheard of")),
        ("aggregates", lambda row: row.update(benchmark="unheard of")),
    ],
)
def test_a_changed_fact_is_seen(copied, monkeypatch, capsys, name, change):
    edit(copied / f"{name}.jsonl", change)
    assert replayed(copied, monkeypatch, capsys)[0] == 1


MISSING = (
    *("infoseek.jsonl", "oven.jsonl", "oven_mini_corpus.jsonl", "aggregates.jsonl", "cvqa_aggregate.jsonl"),
    *("functions.jsonl", "vqa_tables.json", "infoseek_val_qtype_derived.jsonl"),
)


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_file_is_one_complaint(copied, monkeypatch, capsys, name):
    (copied / name).unlink()
    code, printed = replayed(copied, monkeypatch, capsys)
    assert code == f"{copied}: {name} is missing"
    assert "\ntotal" in printed


def test_an_unknown_file_is_named(copied, monkeypatch, capsys):
    (copied / "vqa3.jsonl").write_text("{}")
    (copied / "LICENSE").write_text("not data")
    assert replayed(copied, monkeypatch, capsys)[0] == f"{copied}: nothing here compares vqa3.jsonl"


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("cvqa.jsonl", '{"scorer": "refer', "cvqa.jsonl, line 1: no JSON object"),
        ("cvqa.jsonl", "[1]", "cvqa.jsonl, line 1: no JSON object"),
        ("viquae.jsonl", '{"scorer": "official", "score": 1}', r"viquae.jsonl is not laid out as expected (KeyError"),
        ("ok_vqa.jsonl", '{"scorer": "reference", "score": 1, "prediction": null, "answer_field": "[]"}', "ok_vqa"),
        ("oven.jsonl", '{"scorer": "official"}', "oven.jsonl is not laid out as expected"),
        ("aggregates.jsonl", "{}", "aggregates.jsonl is not laid out as expected"),
        ("vqa_tables.json", "{", "vqa_tables.json is not laid out as expected"),
        ("ok_vqa_aggregate.jsonl", '{"question_type": "one"}', "ok_vqa_aggregate.jsonl is not laid out as expected"),
    ],
)
def test_a_damaged_file_is_one_complaint_and_the_others_are_compared(copied, monkeypatch, capsys, name, line, said):
    (copied / name).write_text(line)
    code, printed = replayed(copied, monkeypatch, capsys)
    assert said in code
    assert code.count("\n") == 0
    assert "\noven" in printed
    assert "\na_okvqa" in printed


def test_the_vocabulary_may_lie_anywhere(copied, monkeypatch, capsys, tmp_path):
    (copied.parent / "bert-base-uncased/vocab.txt").rename(tmp_path / "words.txt")
    assert "name its vocab.txt by --vocabulary" in replayed(copied, monkeypatch, capsys)[0]
    code, printed = replayed(copied, monkeypatch, capsys, "--vocabulary", str(tmp_path / "words.txt"))
    assert code == 0
    assert "oven.jsonl" in printed
    assert "none.txt does not exist" in replayed(copied, monkeypatch, capsys, "--vocabulary", "none.txt")[0]


def test_a_folder_that_is_none(tmp_path, monkeypatch, capsys):
    assert "is not a folder" in replayed(tmp_path / "nowhere", monkeypatch, capsys)[0]


def test_what_is_the_same():
    assert same({"a": [1, 0.666667]}, {"a": (True, 2 / 3)})
    assert same(None, None)
    assert not same(None, 0.0)
    assert not same("1", 1)
    assert not same({"a": 1}, {"a": 1, "b": 1})
    assert not same([1], [1, 1])
    assert not same(0.0, 1e-7, tolerance=0.0)
    assert Compared("", 1, 0, exempt="a reason").agrees
    assert not Compared("", 1, float("nan")).agrees


def test_other_layouts_of_whole_evaluations(copied, monkeypatch, capsys):
    """Rows made up: A-OKVQA with missing predictions and difficult questions, ViQuAE."""
    a_okvqa = [
        {"direct_answers": ["dog"] * 10, "difficult_direct_answer": hard, "choices": ["dog", "cat"],
         "correct_choice_idx": 0, "prediction": prediction}
        for prediction, hard in (("dog", False), ("cat", True), (None, False), ("dog", True))
    ]  # fmt: skip
    viquae = [
        {"answers": ["Rome", "rome"], "prediction": text} for text in ("Rome", "old Rome", "Oslo", r"\boxed{rome}")
    ]
    results = [
        {"benchmark": "a_okvqa", "file": "a_okvqa_aggregate.jsonl", "n": 4, "official_direct_answer": 50.0,
         "official_multiple_choice": {"accuracy": 50.0}, "reference": {"overall": 200 / 3}},
        {"benchmark": "viquae", "file": "viquae_aggregate.jsonl", "n": 4, "reference": 50.0,
         "official": {"exact_match": 0.25, "f1": (1 + 2 / 3) / 4}},
    ]  # fmt: skip
    for name, rows in (("a_okvqa_aggregate", a_okvqa), ("viquae_aggregate", viquae)):
        (copied / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    with (copied / "aggregates.jsonl").open("a") as file:
        file.writelines("\n" + json.dumps(row) for row in results)
    code, printed = replayed(copied, monkeypatch, capsys)
    assert code == 0, printed
    assert printed.count("a_okvqa_aggregate.jsonl") == 3
    results[1]["official"]["mrr"] = 1.0
    with (copied / "aggregates.jsonl").open("a") as file:
        file.write("\n" + json.dumps(results[1]))
    code, printed = replayed(copied, monkeypatch, capsys)
    assert code == 1
    assert "no quantity known here" in printed
