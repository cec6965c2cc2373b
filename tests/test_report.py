"""The report reads what lmms-eval wrote and prints one row a run."""

import json

import pytest
from results import write_run

from comem_lmms.cli import main
from comem_lmms.errors import UserError
from comem_lmms.report import build, read_rows, render, retrieved_ids


def write(folder, name, model, accuracy, model_args="", samples=None, task="microseek"):
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "config": {"model": model, "model_args": model_args},
        "results": {
            task: {"exact_match,none": accuracy, "exact_match_stderr,none": 0.01, "exact_match_tree,none": 0.5}
        },
        "configs": {task: {"metric_list": [{"metric": "exact_match"}]}},
        "n-samples": {task: {"original": 384, "effective": 2}},
    }
    (folder / f"{name}_results.json").write_text(json.dumps(run))
    if samples is not None:
        lines = "".join(json.dumps({"token_counts": [sample]}) + "\n" for sample in samples)
        (folder / f"{name}_samples_{task}.jsonl").write_text(lines)


USAGE = {
    "input_tokens": 40,
    "memory_vectors": 24,
    "retrieval": "clip",
    "retrieved": ["a", "b"],
    "gold": "b",
    "seconds": {"retrieve": 0.1, "encode": 0.2, "answer": 0.3},
}


def test_row(tmp_path):
    write(tmp_path / "x", "20260101_000000", "comem", 0.75, samples=[USAGE, {**USAGE, "retrieved": ["b", "a"]}])
    (row,) = read_rows(tmp_path)
    assert (row.method, row.retrieval, row.accuracy, row.stderr) == ("comem", "clip", 75.0, 1.0)
    assert (row.prompt_tokens, row.memory_vectors, row.questions) == (40, 24, 2)
    assert (row.recall_at_1, row.recall_at_k) == (50.0, 100.0)
    assert row.seconds_per_question == pytest.approx(0.6)
    assert row.encode_seconds == pytest.approx(0.2)


def test_newest_run_wins_and_controls_come_last(tmp_path):
    write(tmp_path / "1", "20260101_000000", "comem", 0.1)
    write(tmp_path / "2", "20260102_000000", "comem", 0.2)
    write(tmp_path, "20260101_000001", "comem", 0.3, "retrieval=wrong", [USAGE])
    write(tmp_path, "20260101_000002", "vanilla_rag", 0.4)
    write(tmp_path, "20260101_000003", "baseline", 0.5)
    assert [row.accuracy for row in read_rows(tmp_path)] == [50.0, 40.0, 20.0, 30.0]


def test_a_trial_does_not_replace_a_run_on_all_and_is_marked(tmp_path):
    write_run(tmp_path / "all", {"okvqa": [1, 0, 1, 0]}, documents=4)
    write_run(tmp_path / "try", {"okvqa": [1, 1]}, documents=4, limit=2, date="20260201_000000")
    rows = read_rows(tmp_path)
    assert sorted((row.accuracy, row.questions) for row in rows) == [(50.0, 4), (100.0, 2)]
    (marked,) = [line for line in render(rows).splitlines() if "100.0" in line]
    assert "(2 questions) " in marked
    assert render(rows).count("(2 questions)") == 1


def write_group(folder):
    """A group with a mean, of two tasks, within a group without one."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"metric_list": [{"metric": "official"}, {"metric": "paper"}]}
    scores = {"official,none": 0.5, "official_stderr,none": 0.01, "paper,none": 0.25, "paper_stderr,none": "N/A"}
    run = {
        "config": {"model": "baseline", "model_args": ""},
        "results": {
            "all": {" ": " ", "alias": "all"},
            "both": scores | {"official,none": 0.6, "paper,none": None, "alias": " - both"},
            "one": scores,
            "two": scores | {"official,none": 0.7},
            "other": {"exact_match,none": 0.1, "exact_match_stderr,none": 0.2},
        },
        "group_subtasks": {"both": ["one", "two"], "all": ["both"], "other": []},
        "configs": {"one": metrics, "two": metrics, "other": {"metric_list": [{"metric": "exact_match"}]}},
        "n-samples": {name: {"original": 9, "effective": 2} for name in ("one", "two", "other")},
    }
    (folder / "20260101_000000_results.json").write_text(json.dumps(run))
    (folder / "20260101_000000_samples_two.jsonl").write_text(json.dumps({"token_counts": [USAGE]}))


def test_groups_come_first_with_their_tasks(tmp_path):
    write_group(tmp_path)
    rows = read_rows(tmp_path)
    assert [(row.task, row.metric, row.accuracy) for row in rows] == [
        ("both", "official", 60.0),
        ("one", "official", 50.0),
        ("other", "exact_match", 10.0),
        ("two", "official", 70.0),
    ]
    assert (rows[0].tasks, rows[0].questions, rows[0].prompt_tokens) == (["one", "two"], 4, 40)
    headings = [line for line in render(rows).splitlines() if "questions" in line and not line.startswith("|")]
    assert headings[:2] == ["both (one, two), 4 questions, official", "one, 2 questions, official"]


def test_another_metric_can_be_shown(tmp_path, capsys):
    write_group(tmp_path)
    lines = render(read_rows(tmp_path, "paper")).splitlines()
    shown = {
        line.split(",")[0]: lines[number + 4].split("|")[3].strip()
        for number, line in enumerate(lines)
        if "questions" in line
    }
    assert shown == {"both (one": "-", "one": "25.0", "other": "-", "two": "25.0"}
    assert main(["report", str(tmp_path), "--metric", "paper", "--task", "two"]) == 0
    assert "two, 2 questions, paper" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--metric", "papr"]) == 2
    assert "has the metric 'papr'; there are exact_match, official, paper" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--task", "three"]) == 2
    assert "--task three is not among these results; there are all, both, one, two, other" in capsys.readouterr().err


def test_one_task_has_its_own_table_and_several_the_main_table(tmp_path, capsys):
    write(tmp_path / "one", "20260101_000000", "comem", 0.5, samples=[USAGE])
    assert main(["report", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out.startswith("microseek, 2 questions, exact_match\n")
    assert main(["report", str(tmp_path / "one"), "--format", "md"]) == 0
    assert capsys.readouterr().out.startswith("| method | model | retrieval | microseek")
    write(tmp_path / "two", "20260101_000000", "comem", 0.5, samples=[USAGE], task="other")
    assert main(["report", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.startswith("| method | model | retrieval ")
    assert main(["report", str(tmp_path), "--task", "other"]) == 0
    assert capsys.readouterr().out.startswith("other, 2 questions, exact_match\n")
    assert main(["report", str(tmp_path), "--task", "other", "--format", "csv"]) == 2
    assert "--task is for the tables by task" in capsys.readouterr().err


def test_what_is_not_known_is_a_dash(tmp_path):
    write(tmp_path, "20260101_000000", "some_model", 0.5, samples=[None, None])
    write(tmp_path, "20260101_000001", "comem", 0.5, samples=[None, USAGE])  # one answer from the cache
    table = render(read_rows(tmp_path))
    assert "| some_model | -         | 50.0 ± 1.0 |             - |" in table
    assert "| comem      | clip      | 50.0 ± 1.0 |            40 |" in table


def test_variants_of_a_method_are_told_apart(tmp_path):
    write(tmp_path, "20260101_000000", "comem", 0.5, "top_k=1,compat=clean", samples=[USAGE])
    write(tmp_path, "20260101_000001", "comem", 0.5, "top_k=1", samples=[USAGE])
    write(tmp_path, "20260101_000002", "comem", 0.5, "top_k=1,retrieval=wrong", samples=[USAGE])
    methods = [line.split("|")[1].strip() for line in render(read_rows(tmp_path)).splitlines()[4:]]
    assert methods == ["comem top_k=1", "comem top_k=1,compat=clean", "comem"]


def test_retrieved_items(tmp_path, caplog):
    write(tmp_path, "20260101_000000", "comem", 0.5, samples=[USAGE, {**USAGE, "retrieved": ["c"]}, None])
    assert retrieved_ids(tmp_path) == {"a", "b", "c"}
    assert "1 of 3 answers do not tell their items" in caplog.text
    samples = next(tmp_path.glob("*.jsonl"))
    samples.write_text(samples.read_text()[:-20])
    with pytest.raises(UserError, match="is cut off or damaged"):
        retrieved_ids(tmp_path)


def test_a_control_from_the_cache_stays_a_control(tmp_path):
    write(tmp_path, "20260101_000000", "comem", 0.02, "retrieval=wrong,top_k=3", samples=[None])
    assert [row.retrieval for row in read_rows(tmp_path)] == ["wrong"]


def test_command(tmp_path, capsys):
    write(tmp_path, "20260101_000000", "comem", 0.5, samples=[USAGE])
    assert main(["report", str(tmp_path), "--json", str(tmp_path / "s/summary.json"), "--rows", "1"]) == 0
    assert "50.0 ± 1.0" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "s/summary.json").read_text())
    wanted = ("method", "retrieval", "accuracy", "stderr", "prompt_tokens", "memory_vectors", "seconds_per_question")
    assert {*wanted, "recall_at_1", "recall_at_k"} <= set(row)
    assert main(["report", str(tmp_path), "--rows", "2"]) == 2
    assert "1 results under" in capsys.readouterr().err


def test_bad_input_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no results of lmms-eval" in error
    (tmp_path / "20260101_000000_results.json").write_text('{"results": {')
    with pytest.raises(UserError, match=r"cannot read .*_results.json"):
        read_rows(tmp_path)
    (tmp_path / "20260101_000000_results.json").write_text("{}")
    with pytest.raises(UserError, match="not a result file of lmms-eval"):
        read_rows(tmp_path)


def test_a_run_s_kind_is_shown_and_the_folders_tell_two_runs_apart(tmp_path):
    write(tmp_path, "20260101_000000", "comem", 0.1, "retrieval=runs/a", [USAGE])
    write(tmp_path, "20260101_000001", "comem", 0.2, "retrieval=runs/b", [USAGE])
    write(tmp_path, "20260101_000002", "comem", 0.3, "retrieval=runs/c", [None])  # all from the cache
    rows = read_rows(tmp_path)
    assert [row.retrieval for row in rows] == ["clip", "clip", "runs/c"]
    table = render(rows)
    assert "| comem retrieval=runs/a | clip " in table
    assert "| comem retrieval=runs/b | clip " in table


def test_the_best_k_of_each_answer(tmp_path):
    write(tmp_path, "20260101_000000", "comem", 0.1, samples=[USAGE, {**USAGE, "retrieved": ["c", "a"]}])
    assert retrieved_ids(tmp_path, 1) == {"a", "c"}
    assert retrieved_ids(tmp_path) == {"a", "b", "c"}


def test_a_line_tells_its_run_where_another_method_has_several(tmp_path):
    write(tmp_path, "20260101_000000", "vanilla_rag", 0.1, "retrieval=runs/a,top_k=2", [USAGE])
    write(tmp_path, "20260101_000001", "vanilla_rag", 0.2, "retrieval=runs/b,top_k=2", [USAGE])
    write(tmp_path, "20260101_000002", "comem", 0.3, "retrieval=runs/b,top_k=2", [USAGE])
    write(tmp_path, "20260101_000003", "comem", 0.3, "retrieval=runs/c,top_k=2", [{**USAGE, "retrieval": "oracle"}])
    first = {line.split("|")[1].strip() for line in render(read_rows(tmp_path)).splitlines()[4:]}
    names = {line.name for line in build(tmp_path).lines}
    assert "comem retrieval=runs/b" in first & names
    assert "comem" in first & names  # the only run by oracle
    assert {"vanilla_rag retrieval=runs/a", "vanilla_rag retrieval=runs/b"} <= names


def test_what_was_searched_with_is_shown_where_it_was_not_the_image(tmp_path):
    asked = {"runs/a": ("image", "clip"), "runs/b": ("both", "clip"), "runs/c": ("text", "oracle")}
    for n, (run, (query, kind)) in enumerate(asked.items()):
        usage = {**USAGE, "query": query, "retrieval": kind}
        write(tmp_path, f"20260101_00000{n}", "comem", 0.1, f"retrieval={run},top_k=2", [usage])
    shown = ["clip", "clip by both", "oracle by text"]
    assert sorted(row.retrieval for row in read_rows(tmp_path)) == shown
    lines = build(tmp_path).lines
    assert [line.knowledge for line in lines] == [f"{one}, k=2" for one in shown]
    assert [(line.name, line.is_control) for line in lines] == [("comem", False), ("comem", False), ("comem", True)]
