"""From folders of results to a site: what is in it, what it says it lacks, and what goes wrong in one line."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import spoiled_task
from PIL import Image
from results import ones, usage, write_run

from comem_lmms.cli import main
from comem_lmms.errors import UserError
from comem_lmms.explorer import build, serve
from comem_lmms.explorer.scores import language_of
from comem_lmms.knowledge import KnowledgeBase, Row
from comem_lmms.report import build as build_report


def chunk(site, name):
    """What the page reads of a chunk: a call with two texts, of which the second is JSON."""
    text = (Path(site) / "data" / f"{name}.js").read_text()
    assert text.startswith(f'explorer("{name}", ')
    return json.loads(json.loads(text.removeprefix(f'explorer("{name}", ').removesuffix(");\n")))


def said(output, asked="Prompt"):
    return {"filtered_resps": output, "input": asked}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    rows = [Row("a", "First", "The first text.", None), Row("b", "Second", "The second text.", None)]
    return KnowledgeBase.create(tmp_path_factory.mktemp("kb") / "kb", rows)


def test_every_line_of_the_report_answers_each_question(tmp_path):
    write_run(tmp_path / "r/1", {"okvqa": [1.0, 0.3]}, "baseline", samples=[said("one"), said("two")])
    write_run(tmp_path / "r/2", {"okvqa": [0.0, 0.6]}, "comem", samples=[said("three"), said("four")])
    older = {"date": "20250101_000000", "samples": [said("older")] * 2}
    write_run(tmp_path / "r/3", {"okvqa": [0.0, 0.0]}, "comem", **older)
    built = build(tmp_path / "r", tmp_path / "site")
    assert (built.questions, built.pictured, built.problems) == (2, 0, [])
    assert (built.lines, built.tasks) == (["baseline", "comem"], ["okvqa"])
    site, (first, second) = chunk(tmp_path / "site", "site"), chunk(tmp_path / "site", "details-0")
    names = [
        (line.name, f"{line.model}, {line.knowledge}".removesuffix(", -"))
        for line in build_report(tmp_path / "r").lines
    ]
    assert [(line["name"], line["more"]) for line in site["lines"]] == names
    assert [(method["line"], method["output"]) for method in first["methods"]] == [(0, "one"), (1, "three")]
    assert [method["output"] for method in second["methods"]] == ["two", "four"]
    assert (first["id"], first["target"]) == ("okvqa/0", "answer 0")
    assert [row["scores"] for row in chunk(tmp_path / "site", "list-0")] == [[[1], [0]], [[0.3], [0.6]]]
    assert "okvqa" in first["lacking"]  # whose pictures this machine has not


def test_scores_by_every_metric_and_the_answers_on_the_way(tmp_path):
    samples = [
        {
            "filtered_resps": "I think. Final answer: \\boxed{Rome}",
            "resps": ["<think>hm</think>I think. ..."],
            "input": "Where?",
        },
        {"filtered_resps": "Oslo", "input": "Where?"},
    ]
    scores = {"official": [1.0, 0.0], "paper": [0.0, 0.0], "unparsed": [0.0, 1.0]}
    write_run(tmp_path / "r", {"okvqa": scores}, samples=samples, lower=["unparsed"])
    build(tmp_path / "r", tmp_path / "site")
    first, second = ((details["methods"][0]) for details in chunk(tmp_path / "site", "details-0"))
    assert first["output"] == "<think>hm</think>I think. ..."
    assert first["scored"] == "I think. Final answer: \\boxed{Rome}"
    assert first["extracted"] == "Rome"
    assert (second["output"], second["scored"], second["extracted"]) == ("Oslo", "", "")
    assert first["scores"] == [["official", "1"], ["paper", "0"], ["unparsed", "0"]]
    assert ["memory vectors", "24"] in first["costs"]
    assert ["seconds", "0.500"] in first["costs"]
    assert chunk(tmp_path / "site", "site")["tasks"] == [{"name": "okvqa", "metrics": ["official", "paper"]}]


def test_splits_are_the_parts_that_the_report_has(tmp_path):
    items = [["val_seen", "String", 1.0], ["val_unseen_entity", "Time", 0.0]]
    scores = {
        "official": (0.5, items),
        "official_question": [1.0, None],
        "official_entity": [None, 0.0],
        "official_translated": [1.0, 0.0],  # all questions have it
        "official_translated_entity": [None, 0.0],  # the same questions
    }
    write_run(tmp_path / "r", {"infoseek_es": scores})
    build(tmp_path / "r", tmp_path / "site")
    rows = chunk(tmp_path / "site", "list-0")
    assert [row["splits"] for row in rows] == [["question"], ["entity"]]
    assert {row["language"] for row in rows} == {"Spanish"}
    assert [language_of(task) for task in ("mrag_bench", "cvqa_all", "mme")] == ["English", "", ""]
    assert ["official", "1 (val_seen, String)"] in chunk(tmp_path / "site", "details-0")[0]["methods"][0]["scores"]


def test_scores_beyond_one_are_shown_and_make_nobody_right(tmp_path):
    write_run(tmp_path / "r", {"scale": {"points": [4.0, 1.0]}}, "llava")
    build(tmp_path / "r", tmp_path / "site")
    assert chunk(tmp_path / "site", "site")["tasks"] == [{"name": "scale", "metrics": [None]}]
    assert chunk(tmp_path / "site", "details-0")[0]["methods"][0]["scores"] == [["points", "4"]]


def test_no_other_metric_judges_in_place_of_a_main_one_that_cannot(tmp_path):
    write_run(tmp_path / "r", {"scale": {"rating": [3, 5, 1], "format_ok": [1, 1, 0]}}, "llava")
    build(tmp_path / "r", tmp_path / "site")
    assert chunk(tmp_path / "site", "site")["tasks"] == [{"name": "scale", "metrics": [None, "format_ok"]}]
    assert [row["scores"] for row in chunk(tmp_path / "site", "list-0")] == [[[None, 1]], [[None, 1]], [[None, 0]]]


def test_items_are_those_of_the_knowledge_base_that_was_used(tmp_path, base):
    told = usage(retrieved=["b", "a"], scores=[0.75, 0.5], gold="a", fingerprints={"knowledge": base.fingerprint[:16]})
    arguments = f"knowledge={base.folder}"
    for place, method in enumerate(("vanilla_rag", "comem")):
        write_run(tmp_path / "r" / str(place), {"okvqa": [1.0]}, method, arguments=arguments, usages=[told])
    build(tmp_path / "r", tmp_path / "site")
    (retrieved,) = chunk(tmp_path / "site", "details-0")[0]["retrieved"]  # once, as both were given the same
    assert (retrieved["lines"], retrieved["lacking"]) == ([0, 1], "")
    shown = [(item["id"], item["title"], item["text"], item["score"], item["right"]) for item in retrieved["items"]]
    assert shown == [("b", "Second", "The second text.", "0.75", False), ("a", "First", "The first text.", "0.5", True)]
    assert "Second" in chunk(tmp_path / "site", "words-0")[0]


@pytest.mark.parametrize(("folder", "reason"), [("gone", "gone is missing"), ("other", "is not the one that was used")])
def test_a_knowledge_base_that_is_gone_or_changed_is_said_and_can_be_given(tmp_path, base, folder, reason, monkeypatch):
    monkeypatch.chdir(tmp_path)
    KnowledgeBase.create("other", [Row("a", "Another", "", None)])
    told = usage(retrieved=["b"], fingerprints={"knowledge": base.fingerprint[:16]})
    write_run("r", {"okvqa": [1.0]}, arguments=f"knowledge={folder}", usages=[told])
    build("r", "site")
    (retrieved,) = chunk("site", "details-0")[0]["retrieved"]
    assert reason.replace("gone is missing", "no knowledge base at gone") in retrieved["lacking"]
    assert "--knowledge" in retrieved["lacking"]
    assert [(item["id"], item["title"]) for item in retrieved["items"]] == [("b", "")]
    build("r", "site", knowledge=[base.folder])
    (retrieved,) = chunk("site", "details-0")[0]["retrieved"]
    assert (retrieved["lacking"], retrieved["items"][0]["title"]) == ("", "Second")


def test_pictures_are_those_of_the_document_that_was_asked(tmp_path, questions):
    """Of a task of one's own, with an unreadable picture and a right answer that the log has not."""
    spoiled_task(tmp_path, questions, {"bytes": b"no picture", "path": None})
    targets = [questions[0]["answer"], "another answer", questions[2]["answer"], questions[3]["answer"], "beyond"]
    write_run(tmp_path / "r", {"spoiled": {"exact_match": ones(5, 5)}}, targets=targets)
    built = build(tmp_path / "r", tmp_path / "site", str(tmp_path))
    assert (built.questions, built.pictured) == (5, 2)
    details = chunk(tmp_path / "site", "details-0")
    other = "the data of spoiled on this machine is not what was asked"
    assert [one["lacking"] for one in details[:2] + details[3:]] == ["", other, "", other]
    assert details[2]["lacking"].startswith("the document cannot be read (document 2 of task spoiled cannot be read")
    assert [one["question"] for one in details] == [questions[0]["question"], "", "", questions[3]["question"], ""]
    (file,) = details[0]["images"]
    with Image.open(tmp_path / "site/images" / file) as stored:
        assert (stored.format, stored.size) == ("WEBP", questions[0]["image"].size)
        assert np.abs(np.asarray(stored.convert("RGB"), int) - np.asarray(questions[0]["image"], int)).mean() < 20
    assert [row["splits"] for row in chunk(tmp_path / "site", "list-0")][3] == [questions[3]["attribute"]]


def test_another_document_under_the_same_number_is_another_question(tmp_path):
    write_run(tmp_path / "r/1", {"okvqa": [1.0]}, "baseline", targets=["dog"])
    write_run(tmp_path / "r/2", {"okvqa": [0.0]}, "comem", targets=["cat"])
    assert build(tmp_path / "r", tmp_path / "site").questions == 2
    found = {details["id"]: details["target"] for details in chunk(tmp_path / "site", "details-0")}
    assert found == {"okvqa/0": "dog", "okvqa/0/1": "cat"}


def test_a_damaged_log_is_named_and_the_others_are_shown(tmp_path, capsys):
    write_run(tmp_path / "r/1", {"okvqa": [1.0], "viquae": [1.0]}, "baseline")
    write_run(tmp_path / "r/2", {"okvqa": [1.0]}, "comem")
    (damaged,) = (tmp_path / "r/2").glob("*.jsonl")
    damaged.write_text(damaged.read_text() + '{"doc_id": 1, "tar')
    write_run(tmp_path / "r/3", {"viquae": [1.0]}, "vanilla_rag", log=False)
    assert main(["explore", str(tmp_path / "r"), "--out", str(tmp_path / "site")]) == 0
    printed = capsys.readouterr()
    assert f"not shown: {damaged} is cut off or damaged" in printed.err
    assert "has no samples of viquae beside it; run lmms-eval with --log_samples" in printed.err
    assert "2 questions (0 with a picture) of okvqa, viquae, answered by 1 lines" in printed.out
    assert len(chunk(tmp_path / "site", "site")["problems"]) == 2


def test_an_answer_from_a_cache_says_that_it_does_not_tell_its_items(tmp_path):
    write_run(tmp_path / "r/1", {"okvqa": [1.0]}, "baseline", usages=[{}])
    write_run(tmp_path / "r/2", {"okvqa": [1.0]}, "comem", usages=[{}])
    build(tmp_path / "r", tmp_path / "site")
    (details,) = chunk(tmp_path / "site", "details-0")
    assert ["--use_cache" in method["lacking"] for method in details["methods"]] == [False, True]
    assert details["retrieved"] == []


def test_numbers_that_are_no_scores_stop_nothing(tmp_path):
    write_run(tmp_path / "r", {"okvqa": ("N/A", [10**400, float("nan"), "one", None])})
    build(tmp_path / "r", tmp_path / "site")
    assert [row["scores"] for row in chunk(tmp_path / "site", "list-0")] == [[[None]]] * 4


def test_half_a_character_in_an_answer_does_not_stop_the_site(tmp_path):
    write_run(tmp_path / "r", {"okvqa": [1.0]}, samples=[said("half \ud83d of it \u2028 \0")])
    build(tmp_path / "r", tmp_path / "site")
    assert chunk(tmp_path / "site", "details-0")[0]["methods"][0]["output"] == "half ? of it \u2028 \0"


def test_a_site_replaces_a_site_and_nothing_else(tmp_path):
    write_run(tmp_path / "r", {"okvqa": [1.0, 0.0]})
    build(tmp_path / "r", tmp_path / "new/site")
    (tmp_path / "new/site/data/old.js").write_text("")
    write_run(tmp_path / "r", {"okvqa": [1.0]}, "baseline", date="20260102_000000")
    build(tmp_path / "r", tmp_path / "new/site")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["site"]
    assert not (tmp_path / "new/site/data/old.js").exists()
    assert len(chunk(tmp_path / "new/site", "site")["lines"]) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for other in ("full", "file", "r"):
        with pytest.raises(UserError, match="holds something else than a site"):
            build(tmp_path / "r", tmp_path / other)
    assert (tmp_path / "full/thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    build(tmp_path / "r", tmp_path / "empty")
    (tmp_path / "empty/CNAME").write_text("a.example")
    (tmp_path / "empty/.git").mkdir()
    with pytest.raises(UserError, match=r"empty holds \.git beside a site"):
        build(tmp_path / "r", tmp_path / "empty")
    assert (tmp_path / "empty/CNAME").read_text() == "a.example"


def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch, capsys):
    """It would still be the folder that was, of which a server finds nothing."""
    write_run(tmp_path / "r", {"okvqa": [1.0]})
    build(tmp_path / "r", tmp_path / "site")
    monkeypatch.chdir(tmp_path / "site")
    capsys.readouterr()
    for given in (".", str(tmp_path / "site")):
        assert main(["explore", str(tmp_path / "r"), "--out", given]) == 2
        error = capsys.readouterr().err
        assert f"{given} holds the working directory" in error
        assert error.count("\n") == 1
    assert Path("index.html").exists()
    monkeypatch.chdir("data")
    with pytest.raises(UserError, match="holds the working directory"):
        build(tmp_path / "r", "..")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--out", "site"], "there is no folder nowhere"),
        (["empty", "--out", "site"], "no results of lmms-eval"),
        (["silent", "--out", "site"], "run lmms-eval with --log_samples"),
        (["r"], "give --out SITE to write the site, --serve"),
        (["r", "--out", "site", "--port", "80"], "--port is for --serve"),
        (["r", "--out", "file/site"], "cannot make a folder in"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("")
    write_run("silent", {"okvqa": [1.0]}, log=False)
    write_run("r", {"okvqa": [1.0]})
    assert main(["explore", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert told in error[-1]
    assert len(error) == 1
    assert not Path("site").exists()


# ---- serving --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    write_run(tmp_path / "r", {"okvqa": ones(1, 2)})
    built = build(tmp_path / "r", tmp_path / "site")
    (tmp_path / "secret").write_text("secret")
    with serve(built.page.parent, 0) as started:
        thread = threading.Thread(target=started.serve_forever)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def get(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_serving_files_of_the_site_and_nothing_else(server):
    assert server.server_address[0] == "127.0.0.1"
    status, page, headers = get(server, "/")
    assert (status, headers["Cache-Control"], headers["X-Content-Type-Options"]) == (200, "no-store", "nosniff")
    assert "Content-Security-Policy" in page
    status, _, headers = get(server, "/data/site.js")
    assert (status, headers.get_content_type()) == (200, "text/javascript")
    for path in ("/data/", "/images/", "/../secret", "/%2e%2e/secret", "/nothing"):
        assert get(server, path)[0] == 404, path


def test_another_sites_name_for_this_machine_is_refused(server):
    """What a page elsewhere would read answers by, once its name is pointed at 127.0.0.1."""
    assert get(server, "/data/site.js", Host="evil.example")[0] == 403
    assert get(server, "/data/site.js", Host=f"localhost:{server.server_port}")[0] == 200


def test_a_port_that_is_taken_is_one_line(server, tmp_path, capsys):
    arguments = ["explore", str(tmp_path / "r"), "--out", str(tmp_path / "other"), "--serve", "--port"]
    for port in (str(server.server_port), "70000"):
        assert main([*arguments, port]) == 2
        error = capsys.readouterr().err
        assert f"cannot listen at port {port} of 127.0.0.1" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "other").exists()


# ---- processes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Enough questions to be interrupted at."""
    folder = tmp_path_factory.mktemp("many")
    for method in ("baseline", "comem"):
        samples = [said(f"{method} says {number} " * 20) for number in range(6_000)]
        write_run(folder / method, {"okvqa": ones(3_000, 6_000)}, method, samples=samples)
    return folder


def start(folder, *arguments):
    program = Path(sys.executable).with_name("comem-lmms")
    return subprocess.Popen(
        [program, "explore", folder, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition):
    for _ in range(6000):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it does not happen")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_the_site_that_was_there(many, tmp_path, how):
    write_run(tmp_path / "r", {"okvqa": [1.0]})
    build(tmp_path / "r", tmp_path / "out/site")
    started = start(many, "--out", tmp_path / "out/site")
    wait_for(lambda: list((tmp_path / "out").glob("site.new-*/data/list-0.js")))
    os.kill(started.pid, how)
    _, error = started.communicate()
    assert started.returncode == (130 if how == signal.SIGINT else -9)
    assert "Traceback" not in error
    assert chunk(tmp_path / "out/site", "site")["questions"] == 1
    left = [path for path in (tmp_path / "out").iterdir() if path.name != "site"]
    assert len(left) == (how == signal.SIGKILL)
    assert not any((path / "index.html").exists() for path in left)


def test_serving_without_a_folder_cleans_up_after_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    write_run(tmp_path / "r", {"okvqa": [1.0]})
    started = start(tmp_path / "r", "--serve", "--port", "0")
    lines = [started.stdout.readline(), started.stdout.readline()]
    port = int(lines[1].split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/index.html")
    assert connection.getresponse().status == 200
    started.send_signal(signal.SIGINT)
    _, error = started.communicate(timeout=60)
    assert (started.returncode, "Traceback" in error) == (0, False)
    assert not list((tmp_path / "tmp").glob("comem-lmms-explore-*"))
