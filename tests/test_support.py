"""Whether the answer was in what was retrieved, and what each method made of it: real runs, bases and sample logs."""

import csv
import io
import json
import shutil

import jsonschema
import pytest
from results import MODEL, ones, usage, write_run

from comem_lmms import micro
from comem_lmms.cli import main
from comem_lmms.harness import documents
from comem_lmms.knowledge import KnowledgeBase, Row
from comem_lmms.report import build, write
from comem_lmms.report.export import SCHEMA
from comem_lmms.report.support import Facts, find_first
from comem_lmms.retrieval import Retriever
from comem_lmms.retrieve import retrieve
from comem_lmms.runs.facts import normaliser
from comem_lmms.runs.recall import recall

LIMIT = 12
# Of MicroSeek's first twelve documents, in the order of their scores: by rank of the right item.
RIGHT = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.4, 0.5, 0.0, 1.0]


@pytest.fixture(scope="module")
def microseek():
    """MicroSeek's first documents."""
    (found,) = documents(["microseek"], LIMIT)
    return found


@pytest.fixture(scope="module")
def retrieved(microseek, tmp_path_factory):
    """A copy of MicroSeek's base, and a run over it."""
    folder = tmp_path_factory.mktemp("support")
    shutil.copytree(micro.resolve("micro", "knowledge"), folder / "kb")
    base = KnowledgeBase.open(folder / "kb")
    return base, retrieve(folder / "run", [microseek], Retriever(base, "clip"), 3)


def given(base, run, microseek, wrong=(), **more):
    """Usages of the first documents; those in ``wrong`` got an item without their answer."""
    lacking = next(id_ for id_ in (base.id(row) for row in range(len(base))) if _says_nothing(base, id_, microseek))
    prints = {"knowledge": base.fingerprint[:16], "retrieval": run.fingerprint[:16]}
    rows = [row for batch in run.documents.batches(run.documents.columns) for row in batch.to_pylist()]
    found = [run.hits[run.row(row["key"])]["ids"] for row in rows]
    return [
        usage(retrieved=[lacking] if n in wrong else ids, fingerprints=prints, **more) for n, ids in enumerate(found)
    ]


def _says_nothing(base, id_, microseek):
    text = " ".join(base.words(base.find(id_)))
    return not any(answer in text for n in range(LIMIT) for answer in microseek.facts(n).answers)


def results(folder, retrieved, microseek, wrong=(8, 9, 10, 11), retrieval=None, **options):
    base, run = retrieved
    scores = {"microseek": {"exact_match": RIGHT}}
    arguments = f"pretrained={MODEL},knowledge={base.folder},retrieval={retrieval or run.folder}"
    told = {"usages": given(base, run, microseek, wrong), "targets": [microseek.target(n) for n in range(LIMIT)]}
    return write_run(folder, scores, arguments=arguments, **{**told, **options})


def counts(support):
    return [
        support.supported.right,
        support.supported.questions - support.supported.right,
        support.unsupported.right,
        support.unsupported.questions - support.unsupported.right,
    ]


@pytest.mark.parametrize("retrieval", [None, "clip"])
def test_four_counts_by_a_run_and_by_the_task_s_documents(tmp_path, retrieved, microseek, retrieval):
    table = build(results(tmp_path, retrieved, microseek, retrieval=retrieval), support=True)
    support = table.support[0, "microseek"]
    assert support.measure == "answer"
    assert counts(support) == [4, 4, 2, 2]  # half a point is right
    assert (support.questions, support.left_out) == (12, 0)
    assert not table.remarks


def test_it_is_what_retrieval_eval_measures(tmp_path, retrieved, microseek):
    base, run = retrieved
    support = build(results(tmp_path, retrieved, microseek, wrong=()), support=True).support[0, "microseek"]
    (measured,) = [one for one in recall(run, base) if (one.measure, one.part) == ("answer", "all")]
    assert {rank: count.questions for rank, count in support.counts.items() if rank} == measured.first


def test_without_retrieval_by_what_the_others_were_given(tmp_path, retrieved, microseek):
    results(tmp_path / "1", retrieved, microseek)
    results(tmp_path / "2", retrieved, microseek, method="vanilla_rag")
    targets = [microseek.target(n) for n in range(LIMIT)]
    alone = [usage(retrieval="none", retrieved=[])] * LIMIT
    write_run(tmp_path / "3", {"microseek": {"exact_match": ones(1, 12)}}, "baseline", targets=targets, usages=alone)
    table = build(tmp_path, support=True)
    assert table.lines[0].method == "baseline"
    assert counts(table.support[0, "microseek"]) == [1, 7, 0, 4]
    results(tmp_path / "2", retrieved, microseek, wrong=(0,), method="vanilla_rag")
    assert (0, "microseek") not in build(tmp_path, support=True).support


def test_nothing_is_shared_between_other_documents_of_the_same_numbers(tmp_path, retrieved, microseek):
    results(tmp_path / "1", retrieved, microseek)
    alone = [usage(retrieval="none", retrieved=[])] * LIMIT
    scores = {"microseek": {"exact_match": ones(1, 12)}}
    write_run(tmp_path / "2", scores, "baseline", targets=["Paris"] * LIMIT, usages=alone)
    assert build(tmp_path, support=True).support.keys() == {(1, "microseek")}


def test_of_fewer_questions_those_that_both_were_asked_are_shared(tmp_path, retrieved, microseek):
    results(tmp_path / "1", retrieved, microseek)
    alone, targets = [usage(retrieval="none", retrieved=[])] * 3, [microseek.target(n) for n in range(3)]
    scores = {"microseek": {"exact_match": ones(1, 3)}}
    write_run(tmp_path / "2", scores, "baseline", targets=targets, usages=alone, limit=3)
    support = build(tmp_path, support=True).support[0, "microseek"]
    assert (support.questions, support.left_out) == (3, 0)


def test_what_no_line_tells_is_said(tmp_path):
    write_run(tmp_path, {"microseek": {"exact_match": ones(1, 2)}}, "baseline", usages=[usage(retrieved=[])] * 2)
    table = build(tmp_path, support=True)
    assert (table.support, table.remarks) == ({}, ["Support is not known: no line tells what was retrieved."])


def test_points_that_are_no_fractions_are_neither_right_nor_wrong(tmp_path, retrieved, microseek):
    results(tmp_path, retrieved, microseek)
    log = next(tmp_path.glob("*_results.json"))
    log.write_text(log.read_text().replace('"exact_match,none": 0.', '"exact_match,none": 7.'))
    assert build(tmp_path, support=True).support == {}


def test_answers_from_a_cache_are_not_counted(tmp_path, retrieved, microseek):
    usages = given(*retrieved, microseek)
    usages[0] = usages[11] = None
    table = build(results(tmp_path, retrieved, microseek, usages=usages), support=True)
    assert (table.support[0, "microseek"].questions, table.support[0, "microseek"].left_out) == (10, 2)
    assert "Not counted: 2 answers" in write(table, "md")


def test_what_is_gone_is_said_in_one_note(tmp_path, retrieved, microseek, capsys):
    base, run = retrieved
    for number, (method, said) in enumerate([("vanilla_rag", "kb"), ("comem", "run")]):
        for name, folder in (("kb", base.folder), ("run", run.folder)):
            shutil.copytree(folder, tmp_path / str(number) / name)
        moved = (
            KnowledgeBase.open(tmp_path / str(number) / "kb"),
            type(run).open(tmp_path / str(number) / "run"),
        )
        results(tmp_path / str(number) / "out", moved, microseek, method=method)
        shutil.rmtree(tmp_path / str(number) / said)
    assert main(["report", str(tmp_path), "--support"]) == 0
    out = capsys.readouterr().out
    (note,) = [line for line in out.splitlines() if line.startswith("- Support is not known")]
    named = f"vanilla_rag retrieval={tmp_path / '0/run'} (clip, k=3)"
    assert f"{named} on microseek: no knowledge base at" in note
    assert out.count("| comem ") == 3  # without its run the task's own documents tell


def test_another_base_run_or_document_is_noticed(tmp_path, retrieved, microseek):
    base, run = retrieved
    other = [usage(fingerprints={"knowledge": "0123456789abcdef"})] * LIMIT
    results(tmp_path / "1", retrieved, microseek, usages=other)
    changed = given(base, run, microseek)
    for told in changed:
        told["fingerprints"] = {**told["fingerprints"], "retrieval": "0123456789abcdef"}
    results(tmp_path / "2", retrieved, microseek, method="vanilla_rag", usages=changed)
    results(tmp_path / "3", retrieved, microseek, retrieval="clip", targets=["Paris"] * LIMIT)
    table = build(tmp_path, support=True)
    assert table.support == {}
    (note,) = table.remarks
    assert f"knowledge base {base.folder} is not what it was" in note
    assert f"retrieval run {run.folder} is not what it was" in note
    assert "the task has other documents by now" in note


def test_an_item_that_the_base_lacks_is_said(tmp_path, retrieved, microseek):
    """By logs of versions that told no fingerprints."""
    usages = [usage(retrieved=["realm-0000", "no such item"], fingerprints=None)] * LIMIT
    (note,) = build(results(tmp_path, retrieved, microseek, usages=usages), support=True).remarks
    assert note.endswith(f"knowledge base {retrieved[0].folder} has no item 'no such item', which was retrieved.")


def test_every_format_has_the_counts(tmp_path, retrieved, microseek):
    table = build(results(tmp_path, retrieved, microseek), support=True)
    shown = "8 (66.7 %)", "4 (50.0 %)", "4 (33.3 %)", "2 (50.0 %)"
    for kind in ("md", "html"):
        assert all(cell in write(table, kind) for cell in shown)
    assert all(cell.replace("%", r"\%") in write(table, "tex") for cell in shown)
    (row,) = csv.DictReader(io.StringIO(write(table, "csv")))
    four = [row[f"{side}_{made}"] for side in ("supported", "unsupported") for made in ("right", "wrong")]
    assert four == ["4", "4", "2", "2"]
    content = json.loads(write(table, "json"))
    jsonschema.validate(content, json.loads(SCHEMA.read_text()), jsonschema.Draft202012Validator)
    assert content["lines"][0]["results"][0]["support"]["unsupported_wrong"] == 2
    without = build(tmp_path)
    assert "Support" not in write(without, "md")
    assert json.loads(write(without, "json"))["lines"][0]["results"][0]["support"] is None


def test_a_task_without_short_answers_goes_by_the_page_of_its_entity(tmp_path):
    """As OVEN does."""
    rows = [Row(str(n), title, "A bird.", None) for n, title in enumerate(("Gull", "Tern"))]
    base = KnowledgeBase.create(tmp_path / "kb", rows, source="test", licence="none")
    asked = {n: {"task": "oven", "entity": "Tern", "answers": []} for n in range(3)}
    facts = Facts(asked, normaliser("oven", None))
    found = find_first("oven", {0: ("0", "1"), 1: ("0",), 2: ("1", "0")}, facts, base)
    assert (found.measure, found.places) == ("entity", {0: 2, 1: None, 2: 1})
