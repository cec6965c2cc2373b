"""Retrieval runs: made once from tasks of lmms-eval, read by every method, measured."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from clips import save_clip, small_config
from helpers import answers, chat, evaluate, indexed, spoiled_task, usages
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comem_lmms import micro
from comem_lmms.cli import main
from comem_lmms.errors import UserError
from comem_lmms.harness import Documents
from comem_lmms.knowledge import KnowledgeBase, Writer
from comem_lmms.knowledge.rows import same_title
from comem_lmms.models.vanilla_rag import VanillaRAG
from comem_lmms.plugin import task_folder
from comem_lmms.queries import key_of
from comem_lmms.records import Query
from comem_lmms.report import read_rows
from comem_lmms.retrieval import Retriever
from comem_lmms.retrieve import PART, retrieve, titled
from comem_lmms.runs import Replay, Run
from comem_lmms.runs.facts import NORMALISERS, declared, facts
from comem_lmms.runs.recall import contains, recall, wording
from comem_lmms.scoring.normalise import squad, vqa

LIMIT = 12


@pytest.fixture(scope="module")
def microseek():
    """MicroSeek as lmms-eval loads it."""
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=task_folder(), include_defaults=False)
    return manager.load_task_or_group(["microseek"], "chat")["microseek"]


@pytest.fixture(scope="module")
def runs(microseek, knowledge, tmp_path_factory):
    """One run of each kind over all of MicroSeek's questions."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("clip", "oracle", "wrong"):
        retrieve(folder / kind, [Documents("microseek", microseek)], Retriever(knowledge, kind), 5)
    return folder


def base(folder: Path, rows: list) -> KnowledgeBase:
    """A knowledge base with its index."""
    made = KnowledgeBase.create(folder, rows)
    indexed(made)
    return made


# ---- answering ------------------------------------------------------------------------------------------------------


def test_a_run_gives_the_answers_of_live_retrieval_without_clip_and_index(run, knowledge, tmp_path):
    """From the command line, for RAG and CoMEM, once the weights of CLIP and the index are gone."""
    shutil.copytree(micro.resolve("micro", "clip"), tmp_path / "clip")
    shutil.copytree(knowledge.folder, tmp_path / "kb")
    indexed(KnowledgeBase.open(tmp_path / "kb"), clip=f"local-dir:{tmp_path / 'clip'}")
    settings = {"limit": LIMIT, "batch_size": 4}
    arguments = f"knowledge={tmp_path / 'kb'},top_k=2"
    live = {name: evaluate(name, model_args=arguments, **settings) for name in ("vanilla_rag", "comem")}
    said = run("comem-lmms", "retrieve", "kb", "--tasks", "microseek", "--top-k", "3", "--out", "runs/x").stdout
    assert "runs/x: 384 different queries of 384 documents (0 without an image" in said
    shutil.rmtree(tmp_path / "clip")
    shutil.rmtree(tmp_path / "kb/index")
    for name, expected in live.items():
        command = ["lmms-eval", "--model", name, "--tasks", "microseek", "--limit", str(LIMIT), "--batch_size", "4"]
        command += ["--model_args", "knowledge=kb,top_k=2,retrieval=runs/x", "--output_path", name, "--log_samples"]
        run(*command)
        (samples,) = (tmp_path / name).rglob("*_samples_*.jsonl")
        lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda line: line["doc_id"])
        assert [line["filtered_resps"] for line in lines] == answers(expected)
        told = [line["token_counts"][0] for line in lines]
        assert [one["retrieved"] for one in told] == [one["retrieved"] for one in usages(expected)]
        assert {one["retrieval"] for one in told} == {"clip"}
        assert told[0]["fingerprints"]["retrieval"] == Run.open(tmp_path / "runs/x").fingerprint[:16]
        (row,) = read_rows(tmp_path / name)
        assert (row.retrieval, row.recall_at_1) == ("clip", 100.0)


def test_runs_by_text_and_by_both_answer_as_well(run, knowledge, questions, tmp_path):
    words = " ".join(q["question"] for q in questions[:LIMIT]).replace("?", " ?").split()
    save_clip(tmp_path / "clip", small_config("ViT-L-14"), list(dict.fromkeys(words))[:60])
    base = KnowledgeBase.create(tmp_path / "kb", [knowledge.row(i) for i in range(50)])
    indexed(base, clip=f"local-dir:{tmp_path / 'clip'}")
    asked = [Query("q", [], q["image"], text=q["question"]) for q in questions[:4]]
    for by in ("text", "both"):
        command = ["comem-lmms", "retrieve", "kb", "--tasks", "microseek", "--limit", "4", "--out", by, "--query", by]
        said = run(*command, "--top-k", "2").stdout
        assert f"(0 without {'a text' if by == 'text' else 'an image and a text'}, which have no hits)" in said
        live = [[hit.id for hit in hits] for hits in Retriever(base, by=by).search(asked, 2)]
        arguments = f"knowledge={base.folder},retrieval={tmp_path / by},top_k=2"
        told = usages(evaluate("vanilla_rag", model_args=arguments, limit=4))
        assert [one["retrieved"] for one in told] == live
        assert {one["query"] for one in told} == {by}


@pytest.mark.parametrize("kind", ["oracle", "wrong"])
def test_controls_are_runs_too(runs, kind):
    arguments = {"limit": 4, "batch_size": 4}
    live = evaluate("vanilla_rag", model_args=f"top_k=2,retrieval={kind}", **arguments)
    replayed = evaluate("vanilla_rag", model_args=f"top_k=2,retrieval={runs / kind}", **arguments)
    assert answers(replayed) == answers(live)
    assert [one["retrieved"] for one in usages(replayed)] == [one["retrieved"] for one in usages(live)]
    assert usages(replayed)[0]["retrieval"] == kind


def test_scores_and_rows_are_those_of_the_retriever(runs, knowledge, questions):
    asked = [Query(q["id"], chat(q["question"], q["image"]), q["image"], q["item_id"]) for q in questions[:128]]
    live = list(Retriever(knowledge).search(asked, 3))
    assert list(Replay(Run.open(runs / "clip"), knowledge).search(asked, 3)) == live


def test_one_run_answers_any_task_with_the_same_images(runs, tmp_path, questions):
    """`spoiled` is another task, whose documents show MicroSeek's images."""
    tasks = spoiled_task(tmp_path, questions, {"bytes": png(questions[2]["image"]), "path": None})
    replayed = evaluate("vanilla_rag", ("spoiled",), task_manager=tasks, model_args=f"retrieval={runs / 'clip'}")
    assert [one["retrieved"][0] for one in usages(replayed, "spoiled")] == [q["item_id"] for q in questions[:4]]


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_the_same_pixels_have_the_same_key_whatever_the_file(questions):
    image = questions[0]["image"].convert("RGB")
    again = Image.open(io.BytesIO(png(image)))
    assert key_of(Query("a", [], image), "clip") == key_of(Query("b", [], again, "gold"), "clip")


def test_size_and_every_pixel_count():
    sizes = [(2, 8), (8, 2), (4, 4)]
    keys = {key_of(Query("q", [], Image.new("RGB", size)), "clip") for size in sizes}
    changed = Image.new("RGB", (4, 4))
    changed.putpixel((3, 3), (0, 0, 1))
    assert len({*keys, key_of(Query("q", [], changed), "clip")}) == 4


def test_the_right_item_counts_in_controls():
    image = Image.new("RGB", (4, 4))
    asked = [Query("q", [], image, gold) for gold in ("a", "b")]
    assert len({key_of(query, "clip") for query in asked}) == 1
    assert len({key_of(query, "oracle") for query in asked}) == 2


def test_the_text_counts_where_it_is_searched_with():
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    asked = [Query("q", [], image, text=text) for image in (red, blue) for text in ("who?", "when?")]
    for by, different in (("image", 2), ("text", 2), ("both", 4)):
        assert len({key_of(query, "clip", by) for query in asked}) == different
    imageless, silent = Query("q", [], text="who?"), Query("q", [], red)
    assert [key_of(imageless, "clip", by) is None for by in ("image", "text", "both")] == [True, False, True]
    assert [key_of(silent, "clip", by) is None for by in ("image", "text", "both")] == [False, True, True]


# ---- making ---------------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_and_becomes_the_same(runs, tmp_path, monkeypatch):
    """kill -9 after the first part; what was found is not searched for again."""
    command = ["retrieve", "micro", "--tasks", "microseek", "--top-k", "5", "--out", str(tmp_path / "killed")]
    program = Path(sys.executable).parent / "comem-lmms"
    process = subprocess.Popen([program, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = tmp_path / "killed/parts/00000-hits.parquet"
    deadline = time.monotonic() + 600
    while not first.is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(first.parent.glob("*-hits.parquet")))
    assert 1 <= kept < 3
    with pytest.raises(UserError, match="it is not finished, run the command that began it again"):
        Run.open(tmp_path / "killed")
    assert main([*command[:-3], "4", "--out", str(tmp_path / "killed")]) == 2  # another k
    asked, query = [], Documents.query
    monkeypatch.setattr(Documents, "query", lambda self, number: asked.append(number) or query(self, number))
    assert main(command) == 0
    assert asked == list(range(kept * PART, 384))
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {path.name for path in (runs / "clip").iterdir()}
    for name in ("hits.parquet", "documents.parquet", "manifest.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (runs / "clip" / name).read_bytes(), name


def test_processes_that_hold_a_part_of_the_index_each_make_the_same_run(run, tmp_path):
    command = ["-m", "comem_lmms.cli", "retrieve", "micro", "--tasks", "microseek", "--limit", "150", "--out"]
    run("python", *command, "alone")
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", "3", "--main_process_port", "29541"]
    said = run(*launch, *command, "together", ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1").stdout
    assert said.count("3 processes share the index\n") == 1
    files = [path.name for path in sorted((tmp_path / "alone").iterdir())]
    assert files == [path.name for path in sorted((tmp_path / "together").iterdir())]
    assert len(files) == 3
    for name in files:
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_what_a_run_holds(runs, knowledge, questions):
    made = Run.open(runs / "clip")
    about = made.manifest
    assert (about["documents"], about["queries"], about["not_searched"], about["fewer_than_k"]) == (384, 384, 0, 0)
    assert about["knowledge"]["fingerprint"] == about["index"]["knowledge"] == knowledge.fingerprint
    hits = pq.read_table(runs / "clip/hits.parquet").to_pylist()
    assert [row["documents"] for row in hits] == [[number] for number in range(384)]
    assert {len(row["ids"]) for row in hits} == {5}
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in hits)
    documents = pq.read_table(runs / "clip/documents.parquet").to_pylist()
    told = ("answer", "item_id", "attribute")
    assert [(row["answers"], row["item_id"], row["split"]) for row in documents] == [
        ([q[told[0]]], q[told[1]], q[told[2]]) for q in questions
    ]


def test_the_same_image_is_searched_for_once_and_its_documents_are_listed(microseek, knowledge, tmp_path):
    twice = [Documents(name, microseek, 3) for name in ("one", "two")]
    about = retrieve(tmp_path / "run", twice, Retriever(knowledge), 2).manifest
    assert (about["documents"], about["queries"]) == (6, 3)
    hits = pq.read_table(tmp_path / "run/hits.parquet").to_pylist()
    assert [(row["task"], row["documents"]) for row in hits] == [(t, [n]) for t in ("one", "two") for n in range(3)]
    assert hits[0]["ids"] == hits[3]["ids"]


def test_documents_without_an_image_are_counted_and_have_no_hits(tmp_path, questions, knowledge):
    tasks = spoiled_task(tmp_path, questions, None)
    utils = tmp_path / "utils.py"
    utils.write_text(
        utils.read_text().replace('return [doc["image"]', 'return [] if doc["image"] is None else [doc["image"]')
    )
    task = tasks.load_task_or_group(["spoiled"], "chat")["spoiled"]
    made = retrieve(tmp_path / "run", [Documents("spoiled", task)], Retriever(knowledge), 2)
    assert (made.manifest["documents"], made.manifest["not_searched"], len(made.hits)) == (4, 1, 3)
    assert [row.questions for row in recall(made) if row.part == "all"] == [3]
    assert pq.read_table(tmp_path / "run/documents.parquet").column("key").null_count == 1


def test_one_image_of_many_rows(tmp_path, knowledge, microseek, questions, caplog):
    """Its rows come in their order in the base, as many as asked for; fewer than k hits are counted, not dropped."""
    rows = [knowledge.row(knowledge.find(q["item_id"])) for q in questions[:9:3]]
    many = [rows[0]._replace(id=f"{number}") for number in range(3)]
    shared = base(tmp_path / "kb", [rows[1], *many, rows[2]])
    documents = [Documents("microseek", microseek, 1)]
    full = retrieve(tmp_path / "full", documents, Retriever(shared, top_k=5), 5)
    assert full.hits[0]["ids"][:3] == ["0", "1", "2"]
    capped = retrieve(tmp_path / "capped", documents, Retriever(shared, top_k=5, per_image=2), 5)
    assert capped.hits[0]["ids"] == ["0", "1", *full.hits[0]["ids"][3:]]
    assert (full.manifest["fewer_than_k"], capped.manifest["fewer_than_k"]) == (0, 1)
    assert full.fingerprint != capped.fingerprint
    caplog.clear()
    (hits,) = Replay(capped, shared, 5).search([documents[0].query(0)], 5)
    assert len(hits) == 4
    assert "1 of 1 questions have fewer than 5 hits in" in caplog.text
    assert caplog.text.endswith(", 0 of them none\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere", "--tasks", "microseek"], "no knowledge base at /nowhere"),
        (["micro", "--tasks", "microsek"], "lmms-eval has no task 'microsek'; did you mean microseek"),
        (["micro", "--tasks", "microseek", "--top-k", "1025"], "top_k=1025 but knowledge base"),
    ],
)
def test_what_cannot_be_made_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("comem_lmms.retrieval.retriever.ClipEmbedder", None)  # loading it would fail otherwise
    assert main(["retrieve", *arguments, "--out", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("comem-lmms:")]
    assert message in line
    assert not (tmp_path / "run").exists()


def test_missing_data_is_one_line_before_clip_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COMEM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("comem_lmms.retrieval.retriever.ClipEmbedder", None)
    assert main(["retrieve", "micro", "--tasks", "viquae", "--out", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("comem-lmms:")]
    assert "comem-lmms data prepare viquae" in line


def test_a_finished_run_is_not_overwritten(runs, microseek, knowledge):
    with pytest.raises(UserError, match="holds a finished run; remove it, or name another folder"):
        retrieve(runs / "clip", [Documents("microseek", microseek)], Retriever(knowledge), 5)


def test_a_folder_of_something_else_is_not_called_a_run_or_a_base(runs, knowledge, microseek):
    """Else the remedy would be to remove it."""
    with pytest.raises(UserError, match=r"has a manifest.json that is not of a run; name another folder"):
        retrieve(knowledge.folder, [Documents("microseek", microseek)], Retriever(knowledge), 5)
    with pytest.raises(UserError, match=r"has a manifest.json that is not of a knowledge base; name another folder"):
        Writer(runs / "clip", {})


def test_two_processes_do_not_make_a_run_in_one_folder(tmp_path, knowledge, microseek, runs):
    tasks = [Documents("microseek", microseek)]
    retriever, search = Retriever(knowledge), Retriever(knowledge).search

    def searched(queries, k):
        with pytest.raises(UserError, match=r"another process is at work in .*run; wait for it, or stop it"):
            retrieve(tmp_path / "run", tasks, Retriever(knowledge), k)
        return search(queries, k)

    retriever.search = searched
    made = retrieve(tmp_path / "run", tasks, retriever, 5)
    assert made.fingerprint == Run.open(runs / "clip").fingerprint
    assert not (tmp_path / "run/parts").exists()


@pytest.fixture
def without_ids(tmp_path, questions):
    """MicroSeek's first four documents without the ids of their items; the third shows the fourth's image."""
    tasks = spoiled_task(tmp_path, questions, {"bytes": png(questions[3]["image"]), "path": None})
    path = tmp_path / "spoiled.yaml"
    split = "test_split: test\n"
    path.write_text(path.read_text().replace(split, split + "process_docs: !function utils.docs\n"))
    with (tmp_path / "utils.py").open("a") as utils:
        utils.write("\n\ndef docs(rows):\n    return rows.remove_columns('item_id')\n")
    return tasks


def test_a_control_over_a_base_without_the_item_says_what_to_give(tmp_path, knowledge, questions, capsys):
    base(tmp_path / "kb", [row for row in map(knowledge.row, range(20)) if row.id != questions[0]["item_id"]])
    command = ["retrieve", str(tmp_path / "kb"), "--tasks", "microseek", "--limit", "1", "--top-k", "2"]
    assert main([*command, "--kind", "oracle", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"{questions[0]['item_id']!r} is not in knowledge base {tmp_path / 'kb'}; use clip (`comem" in error
    assert "--kind clip" in error


def test_controls_need_documents_that_tell_their_item(without_ids, tmp_path, knowledge):
    task = without_ids.load_task_or_group(["spoiled"], "chat")["spoiled"]
    with pytest.raises(UserError, match="--kind oracle needs the right item of each document, and those of task spoil"):
        retrieve(tmp_path / "run", [Documents("spoiled", task)], Retriever(knowledge, "oracle"), 2)


def test_controls_by_the_title_of_an_entity(without_ids, tmp_path, knowledge, questions):
    """Three pages have it, or none; two documents with one image ask about different pages."""
    found = {q["item_id"]: knowledge.row(knowledge.find(q["item_id"])) for q in questions[:40]}
    pages = list(found.values())
    wanted = [pages[0], pages[5], pages[6], pages[7]]
    small = base(
        tmp_path / "kb",
        [*pages, *(pages[0]._replace(id=f"again {i}", text="x", title=pages[0].title.upper()) for i in range(2))],
    )
    titles = [wanted[0].title.replace(" ", "_"), "No such page", wanted[2].title, wanted[3].title]
    task = without_ids.load_task_or_group(["spoiled"], "chat")["spoiled"]
    documents = Documents("spoiled", task)
    documents.declared = {"entity": lambda doc: titles[[q["question"] for q in questions[:4]].index(doc["question"])]}
    clip = retrieve(tmp_path / "clip", [documents], Retriever(small), 6)
    live = [next(iter(Replay(clip, small).search([documents.query(n)], 6))) for n in range(4)]
    rows = titled(small, [documents])
    assert {title: len(rows) for title, rows in rows.items()} == {
        **dict.fromkeys(map(same_title, titles), 1),
        **{same_title(titles[0]): 3, "no such page": 0},
    }
    for kind in ("oracle", "wrong"):
        made = retrieve(tmp_path / kind, [documents], Retriever(small, kind, titled=rows), 6)
        assert (made.manifest["right"], made.manifest["without_right_item"]) == ("entity", 1)
        results = evaluate(
            "vanilla_rag",
            ("spoiled",),
            task_manager=without_ids,
            model_args=f"knowledge={small.folder},retrieval={made.folder},top_k=6",
        )
        for number, shown in enumerate(one["retrieved"] for one in usages(results, "spoiled")):
            ranked = [hit.id for hit in live[number]]
            right = [small.id(row) for row in rows[same_title(titles[number])]]
            if kind == "wrong":
                assert [id_ for id_ in ranked if id_ not in right] == shown[
                    : len([i for i in ranked if i not in right])
                ]
                assert len(shown) == 6
                assert not set(shown) & set(right)
            elif right:
                assert shown[0] == next((id_ for id_ in ranked if id_ in right), right[0])
            else:
                assert shown == ranked


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_run_of_another_base_names_both(runs, knowledge, tmp_path):
    other = KnowledgeBase.create(tmp_path / "kb", [knowledge.row(i) for i in range(20)])
    both = f"is of knowledge base {knowledge.fingerprint[:12]} .*, not of {other.fingerprint[:12]} in"
    with pytest.raises(UserError, match=both):
        VanillaRAG(knowledge=str(other.folder), retrieval=str(runs / "clip"))
    with pytest.raises(UserError, match=both):
        recall(Run.open(runs / "clip"), other)


def test_a_run_whose_manifest_lacks_something(runs, tmp_path):
    shutil.copytree(runs / "clip", tmp_path / "run")
    about = dict(Run.open(tmp_path / "run").manifest)
    for name in ("kind", "files", "tasks"):
        (tmp_path / "run/manifest.json").write_text(json.dumps({k: v for k, v in about.items() if k != name}))
        with pytest.raises(UserError, match=f"manifest.json has no '{name}': it is damaged or was changed"):
            Run.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 6}, r"top_k=6 but retrieval run .* has 5 hits a question; .*make a run with --top-k 6"),
        ({"clip": "micro"}, r"clip='micro' has no use with a retrieval run; leave it out"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_model_is_loaded(runs, arguments, message, monkeypatch):
    monkeypatch.setattr("comem_lmms.models.base.FrozenVLM", None)
    with pytest.raises(UserError, match=message):
        VanillaRAG(retrieval=str(runs / "clip"), **arguments)


def test_a_folder_that_is_no_run(tmp_path, knowledge):
    with pytest.raises(UserError, match=r"no retrieval run at .*; make one with `comem-lmms retrieve`"):
        VanillaRAG(retrieval=str(tmp_path))
    with pytest.raises(UserError, match=r"retrieval='runs/none': there is no such folder; `comem-lmms ret"):
        VanillaRAG(retrieval="runs/none")
    with pytest.raises(UserError, match=r"is not that of a retrieval run"):
        VanillaRAG(retrieval=str(knowledge.folder))


@pytest.mark.parametrize("name", ["hits.parquet", "documents.parquet"])
def test_a_damaged_run(runs, tmp_path, name):
    shutil.copytree(runs / "clip", tmp_path / "run")
    content = bytearray((tmp_path / "run" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is missing, damaged or was changed afterwards"):
        Run.open(tmp_path / "run")


def test_a_document_that_is_not_in_the_run_is_named(microseek, knowledge, tmp_path):
    retrieve(tmp_path / "run", [Documents("microseek", microseek, 2)], Retriever(knowledge), 2)
    with pytest.raises(UserError, match=r"document 2 of task microseek is not in retrieval run .*without --limit"):
        evaluate("vanilla_rag", model_args=f"top_k=2,retrieval={tmp_path / 'run'}", limit=3)


# ---- memories -------------------------------------------------------------------------------------------------------


def test_memories_for_a_run(runs, tmp_path, knowledge, microseek, capsys):
    made = retrieve(tmp_path / "run", [Documents("microseek", microseek, 4)], Retriever(knowledge), 3)
    wanted = {id_ for row in range(4) for id_ in made.hits[row]["ids"][:1]}
    command = ["memorize", str(tmp_path / "bank"), "--for", str(tmp_path / "run")]
    assert main([*command, "--top-k", "1"]) == 0
    assert f"{len(wanted)} memories" in capsys.readouterr().out
    assert main([*command, "--top-k", "4"]) == 2
    assert "top_k=4 but retrieval run" in capsys.readouterr().err
    bank = f"memory_bank={tmp_path / 'bank'},memory_encoder=micro,top_k=1,retrieval={tmp_path / 'run'}"
    assert len(answers(evaluate("comem", model_args=bank, limit=4))) == 4
    other = KnowledgeBase.create(tmp_path / "kb", [knowledge.row(i) for i in range(20)])
    assert main([*command, "--model_args", f"knowledge={other.folder}"]) == 2
    assert knowledge.fingerprint[:12] in capsys.readouterr().err


# ---- recall ---------------------------------------------------------------------------------------------------------


def test_oracle_always_finds_the_item_first_and_wrong_never(runs):
    for kind, expected in (("oracle", 1.0), ("wrong", 0.0)):
        rows = recall(Run.open(runs / kind))
        assert {row.measure for row in rows} == {"item"}
        assert {one.value for row in rows for one in row.at.values()} == {expected}


def test_recall_grows_with_k_and_parts_make_the_whole(tmp_path, knowledge, microseek):
    """A base that has half of the right items, so that something is left to find."""
    half = base(tmp_path / "kb", [knowledge.row(i) for i in range(512)])
    made = retrieve(tmp_path / "run", [Documents("microseek", microseek)], Retriever(half), 20)
    rows = recall(made, half)
    for row in rows:
        values = [one.value for one in row.at.values()]
        assert list(row.at) == [1, 5, 10, 20]
        assert values == sorted(values)
        assert sum(row.first.values()) == round(values[-1] * row.questions)
    for measure in ("item", "answer"):
        whole, *parts = [row for row in rows if row.measure == measure]
        assert 0 < whole.at[20].value < 1
        assert len(parts) == 12
        mean = np.average([row.at[5].value for row in parts], weights=[row.questions for row in parts])
        assert whole.at[5].value == pytest.approx(mean)
    by_hand = [
        knowledge.find(q) < 512 for q in pq.read_table(tmp_path / "run/documents.parquet")["item_id"].to_pylist()
    ]
    (item,) = [row for row in rows if row.measure == "item" and row.part == "all"]
    assert item.at[20].value <= np.mean(by_hand)
    p = item.at[1].value
    assert item.at[1].stderr == pytest.approx((p * (1 - p) / 383) ** 0.5)


def test_answers_and_entities_are_found_where_reading_finds_them(tmp_path, knowledge, microseek, questions):
    """The answer stands in one item, and as a part of a word in another; a third has the entity's title."""
    answer, right = questions[0]["answer"], questions[0]["item_id"]
    rows = [row for row in map(knowledge.row, range(64)) if row.id != right and answer.lower() not in row.text.lower()]
    rows[40] = rows[40]._replace(text=f"It is said: {answer.upper()}, no other.")
    rows[50] = rows[50]._replace(text=f"mis{answer}")
    small = base(tmp_path / "kb", rows)
    documents = Documents("microseek", microseek, 1)
    documents.declared = {"answers": "answer", "entity": lambda doc: rows[30].title.upper().replace(" ", "_")}
    made = retrieve(tmp_path / "run", [documents], Retriever(small), len(rows))
    first = {row.measure: row.first for row in recall(made, small)}
    place = {id_: rank for rank, id_ in enumerate(made.hits[0]["ids"], 1)}
    assert first == {"item": {}, "entity": {place[rows[30].id]: 1}, "answer": {place[rows[40].id]: 1}}


def test_what_the_base_has_not_is_not_said_to_be_missed(tmp_path, knowledge, microseek, questions, capsys):
    """The base has some of the items and one of the pages; then none of the items, and no titles."""
    asked = [q["item_id"] for q in questions[:12]]
    right = knowledge.row(knowledge.find(asked[0]))
    others = [row for row in map(knowledge.row, range(64)) if row.id not in asked][:10]
    documents = Documents("microseek", microseek, 12)
    documents.declared = {
        "answers": "answer",
        "split": "attribute",
        "entity": lambda doc: right.title if doc["question"] == questions[0]["question"] else f"No {doc['item_id']}",
    }
    some = base(tmp_path / "some", [right, *others])
    made = retrieve(tmp_path / "a", [documents], Retriever(some), 3)
    found = {row.measure: row for row in recall(made, some) if row.part == "all"}
    assert 0 < found["item"].in_base == asked.count(right.id) < found["item"].questions == 12
    n_entities = sum(q["question"] == questions[0]["question"] for q in questions[:12])
    assert found["entity"].in_base == n_entities < 12
    assert found["answer"].in_base is None
    assert recall(made)[0].in_base is None  # not known without the base
    assert main(["retrieval", "eval", str(made.folder)]) == 0
    said = capsys.readouterr().out
    assert "\nnot measured: microseek, entity, split " in said
    (line,) = [line for line in said.splitlines() if line.startswith("| microseek | entity") and " all " in line]
    assert [cell.strip() for cell in line.split("|")][3:7] == ["all", "12", str(n_entities), "0"]
    # no item that is right, and no titles
    nothing = base(tmp_path / "none", [row._replace(title="") for row in others])
    made = retrieve(tmp_path / "b", [documents], Retriever(nothing), 3)
    assert main(["retrieval", "eval", str(made.folder)]) == 0
    said = capsys.readouterr().out
    assert "| microseek | answer" in said
    assert "| microseek | item" not in said
    assert "rank of the first right item" not in said
    assert (
        "not measured: microseek, item, 12 questions: the knowledge base has none of the right items\n"
        "not measured: microseek, entity, 12 questions: the knowledge base has no titles\n"
    ) in said
    assert main(["retrieval", "eval", str(made.folder), "--format", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["in_base"], row["at"]["1"]) == (0, {"value": None, "stderr": None})
    documents.declared = {}
    made = retrieve(tmp_path / "c", [documents], Retriever(nothing), 3)
    assert main(["retrieval", "eval", str(made.folder)]) == 2
    assert "cannot be measured: microseek, item, 12 questions: the knowledge base has" in capsys.readouterr().err


def test_eval_prints_what_it_measures(runs, capsys, tmp_path, knowledge):
    assert main(["retrieval", "eval", str(runs / "clip")]) == 0
    said = capsys.readouterr().out
    assert "| microseek | item    | all " in said
    assert "microseek, rank of the first right answer, 384 questions" in said
    assert "clip retrieval by image, 5 items a question; of 384 documents 0 are without an image" in said
    assert main(["retrieval", "eval", str(runs / "wrong"), "--format", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["measure"], row["at"]["5"]["value"], row["first"]) == ("item", 0.0, {})
    assert main(["retrieval", "eval", str(runs / "oracle"), "--format", "csv"]) == 0
    assert "microseek,item,all,384,384,0,1,1.0,0.0" in capsys.readouterr().out.splitlines()


def test_a_run_is_measured_where_the_base_is_not(runs, tmp_path, capsys):
    shutil.copytree(runs / "clip", tmp_path / "run")
    about = json.loads((tmp_path / "run/manifest.json").read_text())
    about["knowledge"]["folder"] = "/nowhere"
    (tmp_path / "run/manifest.json").write_text(json.dumps(about))
    assert main(["retrieval", "eval", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "| microseek | item " in said
    assert "entity and answer are not measured, since /nowhere is not there; give --knowledge" in said


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("born in paris texas", "paris", True),
        ("a comparison", "paris", False),
        ("parish paris", "paris", True),
        ("1969", "196", False),
        ("in 1969.", "1969", True),
        ("法国首都巴黎是", "巴黎", True),
        ("москва-река", "река", True),
        ("москвареки", "река", False),
        ("anything", "", False),
        ("c++ and c", "c++", True),
    ],
)
def test_answers_are_whole_words(text, answer, found):
    assert contains(text, answer) is found


@settings(max_examples=200)
@given(
    st.text(alphabet="ab .-", max_size=8),
    st.text(alphabet="ab .-", min_size=1, max_size=3),
    st.text(alphabet="ab .-", max_size=8),
)
def test_between_spaces_every_answer_is_found(before, answer, after):
    assert contains(f"{before} {answer} {after}", answer)


@pytest.mark.parametrize("normalise", [squad, vqa])
def test_a_word_becomes_the_same_in_an_answer_and_in_a_text(normalise):
    text = "The Mother-in-law, who had two (2) dogs - both brown. " + "Full stop. " * 40 + "It ends in St. Louis."
    for answer in ("mother-in-law", "two", "Brown", "St. Louis", "the dogs"):
        assert contains(wording(text, normalise), wording(answer, normalise)), answer


def test_titles_differ_in_more_than_spelling():
    assert same_title("Aynhoe_Park") == same_title(" aynhoe  park") != same_title("Aynhoe Park (house)")


def test_a_document_tells_what_its_task_declares():
    fields = declared("t", {"retrieval": {"answers": "a", "entity": lambda doc: doc["e"], "language": "missing"}})
    assert facts({"a": ["x", "y", "x"], "e": "E"}, fields) == (["x", "y"], "E", None, None)
    assert facts({"a": "x", "e": ""}, fields).answers == ["x"]
    told = [facts({"a": value, "e": ""}, fields).answers for value in (7, 0, (1, 2), "", None, [])]
    assert told == [["7"], ["0"], ["1", "2"], [], [], []]
    assert declared("t", [{"version": 1}]) == declared("t", None) == {}
    with pytest.raises(UserError, match="task t: metadata: retrieval: 'answer' is unknown; declare some of answers"):
        declared("t", {"retrieval": {"answer": "a"}})
    with pytest.raises(UserError, match="task t: normalise: 'sqaud' is unknown; choose one of none, exact, squad, vqa"):
        declared("t", {"retrieval": {"normalise": "sqaud"}})
    assert set(NORMALISERS) == {"none", "exact", "squad", "vqa"}
