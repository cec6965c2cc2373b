"""Training data made of real rollouts of MicroSeek, from the command line; kept apart from evaluations; translated."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from comem_lmms.training.synthesis.evaluation import NEAR, Evaluation, look
from comem_lmms.training.synthesis.store import Sample, SampleFolder, write
from comem_lmms.training.synthesis.translating import translate
from comem_lmms.training.synthesis.translators import Failure, Local
from helpers import spoiled_task
from PIL import Image
from speaking import Speaker, speaking, translated

from comem_lmms.cli import main
from comem_lmms.data import sources
from comem_lmms.harness import Documents
from comem_lmms.images import open_image
from comem_lmms.records import Query

ASKED = 24  # questions of MicroSeek that were asked
AGAINST = ("--against", "spoiled", "--include_path")


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory) -> Path:
    """Logs of vanilla RAG with the right items, with the wrong ones, and of three questions asked twice."""
    folder = tmp_path_factory.mktemp("rollouts")
    command = [str(Path(sys.executable).parent / "lmms-eval"), "--model", "vanilla_rag", "--tasks", "microseek"]
    command += ["--batch_size", "8", "--log_samples"]
    for name, *more in (
        ("right", "--limit", str(ASKED)),
        ("wrong", "--limit", str(ASKED), "--model_args", "retrieval=wrong,top_k=2"),
        ("twice", "--limit", "3", "--repeats", "2", "--reasoning_tags", "none"),
    ):
        done = subprocess.run([*command, *more, "--output_path", name], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


def log_of(folder: Path) -> Path:
    (path,) = folder.rglob("*_samples_*.jsonl")
    return path


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in log_of(folder).read_text().splitlines()]


def changed(rollouts: Path, to: Path, change) -> Path:
    """A copy of the rollout with the right items, whose lines went through a function."""
    shutil.copytree(rollouts / "right", to)
    told = [change(line) or line for line in lines(to)]
    log_of(to).write_text("".join(json.dumps(line) + "\n" for line in told))
    return to


def made(out: Path, *arguments: object) -> SampleFolder:
    """`from-samples` in this process."""
    assert main(["training-data", "from-samples", "--out", str(out), *map(str, arguments)]) == 0
    return SampleFolder.open(out)


def refused(capsys, *arguments: object) -> str:
    """The one line that a command of ``training-data`` says."""
    capsys.readouterr()
    assert main(["training-data", *map(str, arguments)]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("comem-lmms: ")]
    assert len(told) == 1
    return told[0]


def counts(data: SampleFolder) -> dict:
    return data.manifest["counts"]["microseek"]


# ---- from samples ---------------------------------------------------------------------------------------------------


def test_right_answers_of_a_rollout_become_samples(run, rollouts, questions, knowledge, tmp_path):
    said = run(
        "comem-lmms", "training-data", "from-samples", str(rollouts), "--keep", "correct", "--out", "data"
    ).stdout
    kept = [line for line in lines(rollouts / "right") if line["exact_match"] == 1.0]
    seen = {line["doc_id"] for line in kept}
    wrong = [line for name in ("right", "wrong") for line in lines(rollouts / name) if line["exact_match"] != 1.0]
    # Made-up facts are guessed now and then.
    kept += [line for line in lines(rollouts / "wrong") if line["exact_match"] == 1.0 and line["doc_id"] not in seen]
    rows = datasets.load_from_disk(str(tmp_path / "data"))
    assert 2 / 3 * ASKED < len(rows) == len(kept)
    assert rows.column_names == ["image", "prompt", "answer", "item_ids", "task", "document", "language"]
    for row, line in zip(rows, kept, strict=True):
        asked = questions[line["doc_id"]]
        assert row["image"].convert("RGB").tobytes() == asked["image"].convert("RGB").tobytes()
        assert (row["prompt"], row["answer"]) == (asked["question"], line["filtered_resps"])
        assert row["item_ids"] == line["token_counts"][0]["retrieved"]
        assert (row["task"], row["document"], row["language"]) == ("microseek", line["doc_id"], "en")
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    told = manifest["counts"]["microseek"]
    assert told["answers"] == 2 * ASKED + 6
    assert told["dropped"]["wrong"] == len(wrong) > ASKED / 2
    assert told["kept"] + sum(told["dropped"].values()) == told["answers"]
    assert manifest["knowledge"] == {"fingerprint": knowledge.fingerprint, "folder": "micro"}
    assert [one["items"] for one in manifest["rollouts"]] == [3, 2, 3]
    assert manifest["rollouts"][0]["generation"]["max_new_tokens"] == 8
    assert manifest["rollouts"][0]["fingerprints"]["kind"] == ["clip"]
    assert manifest["rollouts"][1]["model_args"] == {"retrieval": "wrong", "top_k": 2}
    assert f"microseek: {len(kept)} of {told['answers']} answers kept, {len(wrong)} wrong" in said
    guessed = len(kept) - len(seen)
    assert f"answered by {len(seen)} vanilla_rag, {guessed} vanilla_rag (retrieval=wrong, top_k=2)\n" in said
    assert (f"NOT under vanilla RAG, or with wrong items: {guessed} of these" in said) == (guessed > 0)
    # None of the eight benchmarks is here, and that is said of each.
    assert set(manifest["against"]["not_checked"]) == {n for n in sources.SOURCES if not n.endswith("_train")}
    assert "NOT compared with infoseek, infoseek_paper" in said
    assert said == said.replace("Traceback", "")
    again = run("comem-lmms", "training-data", "stats", "data").stdout
    assert again.splitlines()[0].split() == ["task", "en", "samples"]
    assert again.strip() in said


def test_all_answers_can_be_kept(rollouts, tmp_path, evaluation, capsys):
    data = made(tmp_path / "all", rollouts / "wrong", "--keep", "all", *evaluation)
    assert len(data) == counts(data)["kept"] == ASKED
    assert f"NOT under vanilla RAG, or with wrong items: {ASKED} of these answers\n" in capsys.readouterr().out


def test_answers_of_another_method_are_told_of(rollouts, tmp_path, evaluation, capsys):
    copy = shutil.copytree(rollouts / "right", tmp_path / "comem")
    (result,) = copy.rglob("*_results.json")
    result.write_text(result.read_text().replace('"model": "vanilla_rag"', '"model": "comem"'))
    data = made(tmp_path / "data", copy, *evaluation)
    said = capsys.readouterr().out
    assert f"answered by {len(data)} comem\nNOT under vanilla RAG, or with wrong items: {len(data)} of" in said


def test_several_answers_to_a_question(rollouts, tmp_path, evaluation):
    """The same answer counts once; ``Petra.`` is as right as ``Petra``, and another text."""

    def stopped(line: dict) -> None:
        line["filtered_resps"] += "."

    changed(rollouts, tmp_path / "logs/stopped", stopped)
    shutil.copytree(rollouts / "right", tmp_path / "logs/right")
    shutil.copytree(rollouts / "twice", tmp_path / "logs/twice")
    once = made(tmp_path / "once", tmp_path / "logs", *evaluation)
    both = made(tmp_path / "both", tmp_path / "logs", "--per-question", 2, *evaluation)
    assert len(both) == 2 * len(once)
    assert len({(s.document, s.answer) for s in both}) == len(both)
    assert counts(once)["dropped"]["repeated"] > counts(both)["dropped"]["repeated"] == 6
    assert len({one["sha256"] for one in both.manifest["rollouts"]}) == 3


def test_repeats_of_one_run_are_answers_of_their_own(rollouts, tmp_path, evaluation):
    """With sampling they differ; what lmms-eval logs of them is a list."""
    assert all(len(line["resps"]) == 2 for line in lines(rollouts / "twice"))

    def sampled(line: dict) -> None:
        line["resps"] = ["nonsense", line["filtered_resps"]]
        line["filtered_resps"] = "nonsense"

    data = made(tmp_path / "data", changed(rollouts, tmp_path / "logs", sampled), *evaluation)
    right = [line for line in lines(rollouts / "right") if line["exact_match"] == 1.0]
    assert [sample.answer for sample in data] == [line["filtered_resps"] for line in right]
    assert counts(data)["dropped"] == {"wrong": 2 * ASKED - len(right)}


def test_the_whole_output_is_the_target(rollouts, tmp_path, evaluation):
    def thoughtful(line: dict) -> None:
        line["resps"] = f"<think>Hm.</think>{line['filtered_resps']}"

    data = made(tmp_path / "data", changed(rollouts, tmp_path / "logs", thoughtful), *evaluation)
    assert len(data) > ASKED / 2
    assert all(sample.answer.startswith("<think>Hm.</think>") for sample in data)


def _empty(line: dict) -> None:
    line["filtered_resps"] = " \n"


def _from_the_cache(line: dict) -> None:
    line["token_counts"] = [None]


def _without(line: dict) -> None:
    line["token_counts"][0]["retrieved"] = []


def _fewer(line: dict) -> None:
    line["token_counts"][0]["retrieved"].pop()


def _cut(line: dict) -> None:
    line["token_counts"][0]["output_tokens"] = 8


def _wrong(line: dict) -> None:
    line["filtered_resps"] = "Atlantis"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_empty, "empty"),
        (_from_the_cache, "without items"),
        (_without, "without items"),
        (_fewer, "with fewer items"),
        (_cut, "cut off"),
        (_wrong, "wrong"),
    ],
)
def test_each_dropped_answer_has_its_reason(rollouts, tmp_path, evaluation, spoil, reason):
    right = [line["doc_id"] for line in lines(rollouts / "right") if line["exact_match"] == 1.0]
    rollout = changed(rollouts, tmp_path / "logs", lambda line: spoil(line) if line["doc_id"] in right[1:3] else None)
    data = made(tmp_path / "data", rollout, *evaluation)
    wrong = ASKED - len(right)
    assert counts(data)["dropped"][reason] == 2 + (wrong if reason == "wrong" else 0)
    assert [sample.document for sample in data] == [right[0], *right[3:]]
    if reason == "with fewer items":
        assert len(made(tmp_path / "more", rollout, "--min-items", 2, *evaluation)) == len(data) + 2


def test_metric_and_threshold(rollouts, tmp_path, capsys, evaluation):
    logs = rollouts / "right"
    assert len(made(tmp_path / "any", logs, "--threshold", 0, *evaluation)) == ASKED
    told = refused(capsys, "from-samples", logs, "--out", tmp_path / "x", "--metric", "bleu", *evaluation)
    assert "task microseek has no metric 'bleu'; it has exact_match, exact_match_founder" in told
    told = refused(capsys, "from-samples", logs, "--out", tmp_path / "x", "--threshold", 2, *evaluation)
    assert f"no sample is left for {tmp_path / 'x'}: {ASKED} wrong" in told
    assert not list(tmp_path.glob("x*"))


def test_the_file_of_an_image_is_kept_as_it_is(rollouts, tmp_path, evaluation, questions):
    """A JPEG stays that JPEG; as PNG it would be several times as large."""
    stored = datasets.load_dataset(
        "parquet", data_files=str(Path(__file__).parents[1] / "tasks/microseek/test.parquet")
    )
    files = [row["bytes"] for row in stored["train"].cast_column("image", datasets.Image(decode=False))["image"]]
    for sample in made(tmp_path / "data", rollouts / "right", *evaluation):
        assert sample.image == files[sample.document]


def test_a_photo_that_is_to_be_turned_is_turned(rollouts, questions, tmp_path):
    """`datasets` turns it as its EXIF data say, and so lmms-eval does; whoever reads the sample must see the same."""
    image = questions[2]["image"].convert("RGB").crop((0, 0, 40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter
    turned = {"bytes": encoded(image, "jpeg", exif=exif.tobytes()), "path": None}
    spoiled_task(tmp_path, questions, turned)
    data = made(
        tmp_path / "data", as_spoiled(rollouts, tmp_path / "logs"), "--against", "microseek", "--include_path", tmp_path
    )
    (sample,) = data
    (row,) = datasets.load_from_disk(str(tmp_path / "data"))
    assert row["image"].size == open_image(sample.image).size == (30, 40)


# ---- overlap --------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, format_: str, **how: object) -> bytes:
    content = io.BytesIO()
    image.convert("RGB").save(content, format_, **how)
    return content.getvalue()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, questions) -> tuple[str, ...]:
    """Arguments for an evaluation task that shares nothing with the questions that were asked."""
    folder = tmp_path_factory.mktemp("task")
    others = [{**q, "question": f"Unlike {i}"} for i, q in enumerate(questions[-4:])]
    spoiled_task(folder, others, {"bytes": encoded(others[2]["image"], "png"), "path": None})
    return (*AGAINST, str(folder))


@pytest.mark.parametrize(
    ("format_", "how", "way"),
    [
        ("bmp", {}, "image"),
        ("webp", {"lossless": True}, "image"),
        ("jpeg", {"quality": 50}, "lookalike"),
    ],
)
def test_images_of_an_evaluation_are_found_in_any_format(rollouts, questions, tmp_path, format_, how, way):
    planted = [{**q, "question": f"Unlike {i}"} for i, q in enumerate(questions[-4:])]
    spoiled_task(tmp_path, planted, {"bytes": encoded(questions[5]["image"], format_, **how), "path": None})
    data = made(tmp_path / "data", rollouts / "right", *AGAINST, tmp_path)
    assert data.manifest["against"]["overlaps"]["spoiled"][way] == 1
    assert data.manifest["against"]["documents"] == {"spoiled": 4}
    assert counts(data)["dropped"]["overlap with evaluation"] == 1
    assert 5 not in {sample.document for sample in data}


def test_questions_of_an_evaluation_are_found_in_any_case(rollouts, questions, tmp_path):
    """Reported; dropped only on demand, since benchmarks ask the same of many images."""
    asked = questions[4]["question"]
    planted = [{**q, "question": f"Unlike {i}"} for i, q in enumerate(questions[-4:])]
    planted[0]["question"] = "  " + asked.upper().replace("?", " \uff1f") + "\n"
    spoiled_task(tmp_path, planted, {"bytes": encoded(planted[2]["image"], "png"), "path": None})
    data = made(tmp_path / "data", rollouts / "right", *AGAINST, tmp_path)
    right = {line["doc_id"] for line in lines(rollouts / "right") if line["exact_match"] == 1.0}
    same = {number for number in right if questions[number]["question"] == asked}
    assert 4 in same
    assert data.manifest["against"]["overlaps"]["spoiled"] == {"image": 0, "lookalike": 0, "question": len(same)}
    assert {sample.document for sample in data} == right
    data = made(tmp_path / "strict", rollouts / "right", "--overlap", "either", *AGAINST, tmp_path)
    assert {sample.document for sample in data} == right - same


def test_emblems_of_other_realms_do_not_look_alike(questions):
    looks = [(q["item_id"], look(q["image"].convert("RGB"))) for q in questions[::3]]
    bits = [
        int((((one ^ two)[:, None] >> range(8)) & 1).sum())
        for i, (realm, one) in enumerate(looks)
        for other, two in looks[:i]
        if realm != other
    ]
    assert min(bits) > NEAR


def test_plain_images_do_not_look_alike(questions, tmp_path):
    white = {"bytes": encoded(Image.new("RGB", (64, 64), "white"), "png"), "path": None}
    task = spoiled_task(tmp_path, questions, white).load_task_or_group(["spoiled"], "chat")["spoiled"]
    evaluation = Evaluation()
    evaluation.add(Documents("spoiled", task))
    found = [evaluation.overlaps(Query("q", [], Image.new("RGB", (64, 64), name))) for name in ("white", "black")]
    assert found == [{"image": {"spoiled"}}, {}]


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_no_rollouts(tmp_path, capsys, rollouts, evaluation):
    told = refused(capsys, "from-samples", tmp_path, "--out", tmp_path / "data", *evaluation)
    assert "no rollouts (*_samples_*.jsonl) under" in told
    shutil.copytree(rollouts / "right", tmp_path / "logs")
    log_of(tmp_path / "logs").unlink()
    told = refused(capsys, "from-samples", tmp_path / "logs", "--out", tmp_path / "data", *evaluation)
    assert "1 results, but no sample logs" in told
    assert "--log_samples" in told


def _half(text: str) -> str:
    return text[: len(text) * 2 // 3]


def _older(text: str) -> str:
    told = [json.loads(line) for line in text.splitlines()]
    return "".join(json.dumps({k: v for k, v in line.items() if k != "token_counts"}) + "\n" for line in told)


def _other_answer(text: str) -> str:
    return text.replace('"doc_id": 4,', '"doc_id": 5,')


def _other_prompt(text: str) -> str:
    first = json.loads(text.splitlines()[0])
    return json.dumps({**first, "input": "Who paid?"}) + "\n" + text.partition("\n")[2]


def _beyond(text: str) -> str:
    return text.replace('"doc_id": 4,', '"doc_id": 4000,')


def _other_knowledge(text: str) -> str:
    return text.replace('{"knowledge": "', '{"knowledge": "0123')


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_half, "is cut off or damaged"),
        (_older, "line 1 of {log} is no sample of lmms-eval 0.7 (it lacks 'token_counts')"),
        (_other_answer, "line 5 of {log} has the right answer"),
        (_other_prompt, "line 1 of {log} has the prompt 'Who paid?', but document 0 of task microseek has 'Who "),
        (_beyond, "line 5 of {log} is of document 4000, but task microseek has 384 here"),
        (_other_knowledge, "line 1 of {log} was answered with knowledge base 0123"),
    ],
)
def test_spoiled_logs_are_refused_in_one_line(rollouts, tmp_path, capsys, evaluation, spoil, says):
    shutil.copytree(rollouts / "right", tmp_path / "logs")
    log = log_of(tmp_path / "logs")
    log.write_text(spoil(log.read_text()))
    told = refused(capsys, "from-samples", tmp_path / "logs", "--out", tmp_path / "data", *evaluation)
    assert says.format(log=log) in told
    assert not list(tmp_path.glob("data*"))


def test_logs_of_unknown_tasks_and_without_results_are_refused(rollouts, tmp_path, capsys, evaluation):
    shutil.copytree(rollouts / "right", tmp_path / "logs")
    log = log_of(tmp_path / "logs")
    results = log.with_name(log.name.replace("_samples_microseek.jsonl", "_results.json"))
    log.rename(renamed := log.with_name(log.name.replace("microseek", "macroseek")))
    results.write_text(results.read_text().replace('"microseek"', '"macroseek"'))
    arguments = ("from-samples", tmp_path / "logs", "--out", tmp_path / "data", *evaluation)
    assert "no task 'macroseek'; did you mean microseek" in refused(capsys, *arguments)
    results.write_text('{"results": {}}')
    assert f"{results} lacks 'config': not a result file of lmms-eval 0.7" in refused(capsys, *arguments)
    results.unlink()
    assert f"{renamed} has no {results.name} beside it" in refused(capsys, *arguments)


def as_spoiled(rollouts: Path, to: Path) -> Path:
    """The first four lines of the rollout with the right items, as if of the task ``spoiled``."""
    shutil.copytree(rollouts / "right", to)
    log = log_of(to)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:4]))
    log.rename(log.with_name(log.name.replace("microseek", "spoiled")))
    (results,) = to.rglob("*_results.json")
    results.write_text(results.read_text().replace('"microseek"', '"spoiled"'))
    return to


def test_a_rollout_over_a_damaged_image_is_refused(rollouts, questions, tmp_path, capsys):
    """The task is ``spoiled``: MicroSeek's first documents, the third of them with half a file as its image."""
    half = encoded(questions[2]["image"], "png")
    spoiled_task(tmp_path, questions, {"bytes": half[: len(half) // 8], "path": None})
    rollout = as_spoiled(rollouts, tmp_path / "logs")
    told = refused(
        capsys,
        "from-samples",
        rollout,
        "--out",
        tmp_path / "data",
        "--against",
        "microseek",
        "--include_path",
        tmp_path,
    )
    assert "document 2 of task spoiled cannot be read" in told


def test_an_output_that_is_there_and_a_knowledge_base_that_is_not(rollouts, tmp_path, capsys, evaluation):
    (tmp_path / "data").mkdir()
    arguments = ("from-samples", rollouts / "right", "--out", tmp_path / "data", *evaluation)
    assert "data is there already" in refused(capsys, *arguments)
    (tmp_path / "data").rmdir()
    shutil.copytree(rollouts / "right", tmp_path / "logs")
    (results,) = (tmp_path / "logs").rglob("*_results.json")
    results.write_text(results.read_text().replace('"model_args": ""', '"model_args": "knowledge=gone"', 1))
    told = refused(capsys, "from-samples", tmp_path / "logs", "--out", tmp_path / "data", *evaluation)
    assert "the knowledge base of the rollouts, gone, is not to be found from here; give --knowledge" in told
    assert len(made(tmp_path / "data", tmp_path / "logs", "--knowledge", "micro", *evaluation)) > 0


# ---- translation ----------------------------------------------------------------------------------------------------

PROMPT = "Question: Where is it? \n    Final answer: \\boxed{your short answer here}"


@pytest.fixture
def speaker() -> Iterator[Speaker]:
    with speaking() as one:
        yield one


@pytest.fixture
def data(tmp_path) -> Path:
    """Twelve samples with boxed answers."""
    counts = {"made": {"answers": 12, "kept": 12, "dropped": {}}}
    about = {"from": "samples", "knowledge": {"fingerprint": "f" * 64, "folder": "kb"}, "counts": counts}
    about |= {"rollouts": [], "rules": {}, "against": {"documents": {}, "overlaps": {}, "not_checked": {}}}
    samples = [
        Sample(
            image=encoded(Image.new("RGB", (8, 8), (20 * number, 0, 0)), "png") if number else None,
            prompt=PROMPT,
            answer=f"Reasoning Process: it is {number}.\nFinal answer: \\boxed{{place {number}}}",
            item_ids=[f"item {number}", "item 0"],
            task="made",
            document=number,
            language="en",
        )
        for number in range(12)
    ]
    write(tmp_path / "data", samples, lambda: about)
    return tmp_path / "data"


def arguments(speaker: Speaker, data: Path, out: Path, languages: str = "bg,zh", number: int = 5) -> list[str]:
    where = ["translate", str(data), "--out", str(out), "--api-base", speaker.url, "--model", "m"]
    return [*where, "--languages", languages, "--per-language", str(number), "--workers", "2"]


def translated_data(*given: object) -> SampleFolder:
    asked = arguments(*given)
    assert main(["training-data", *asked]) == 0
    return SampleFolder.open(Path(asked[3]))


def test_translations_stand_behind_the_samples(speaker, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    out = translated_data(speaker, data, tmp_path / "multi")
    originals, samples = list(SampleFolder.open(data)), list(out)
    assert samples[:12] == originals
    for start, language, name in ((12, "bg", "Bulgarian"), (17, "zh", "Chinese (simplified)")):
        for one in samples[start : start + 5]:
            original = originals[one.document]
            assert one.prompt == "\n".join(f"{name}: {line}" for line in PROMPT.split("\n"))
            assert one.answer.endswith(f"{name}: Final answer: \\boxed{{place {one.document}}}")
            assert one == original._replace(prompt=one.prompt, answer=one.answer, language=language)
    assert [s.document for s in samples[12:17]] == [s.document for s in samples[17:]]  # the same in every language
    manifest = out.manifest
    assert manifest["tasks"] == {"made": {"en": 12, "bg": 5, "zh": 5}}
    assert manifest["translation"]["samples"] == {code: {"kept": 5, "rejected": {}} for code in ("bg", "zh")}
    assert manifest["sources"] == [SampleFolder.open(data).manifest]
    assert speaker.keys == {"Bearer secret"}
    assert "secret" not in json.dumps(manifest)
    assert "Bulgarian (bg), translated by m: 5 kept" in capsys.readouterr().out
    assert not (tmp_path / "multi.partial").exists()
    other = translated_data(speaker, data, tmp_path / "other")
    assert other.manifest["fingerprint"] == manifest["fingerprint"]


def test_a_busy_endpoint_is_asked_again(speaker, data, tmp_path):
    wait = {"retry-after-ms": "20"}
    speaker.faults = [(429, wait), (503, wait), None, (500, wait)]
    assert len(translated_data(speaker, data, tmp_path / "multi")) == 22
    assert len(speaker.asked) == 14


def test_rubbish_is_asked_for_again_and_then_counted(speaker, data, tmp_path):
    speaker.faults = ["rubbish", ""]
    out = translated_data(speaker, data, tmp_path / "one", "bg", 2)
    assert out.manifest["translation"]["samples"]["bg"] == {"kept": 2, "rejected": {}}

    def says(request: str) -> str:
        reply = translated(request)
        if "place 3" in request:
            return reply.replace("\\boxed{place 3}", "place 3")
        if "place 4" in request:
            return reply.replace("\\boxed{place 4}", "\\boxed{}")
        if "place 5" in request:
            return reply.partition("[[ANSWER]]")[0]
        if "place 6" in request:
            return "[[QUESTION]] \n[[ANSWER]]\n[[END]]"
        if "place 7" in request:
            return reply.replace("Bulgarian: ", "")
        return reply

    speaker.says = says
    speaker.asked.clear()
    out = translated_data(speaker, data, tmp_path / "two", "bg", 12)
    rejected = {"empty": 1, "lost \\boxed{}": 2, "not as asked for": 1, "not translated": 1}
    assert out.manifest["translation"]["samples"]["bg"] == {"kept": 7, "rejected": rejected}
    assert len(speaker.asked) == 7 + 3 * 5
    assert {s.document for s in out if s.language == "bg"} == {0, 1, 2, 8, 9, 10, 11}


def test_answers_that_are_refused_or_cut_off_are_counted(speaker, data, tmp_path, capsys):
    speaker.faults = [(400, {})]
    out = translated_data(speaker, data, tmp_path / "one", "bg", 5)
    assert out.manifest["translation"]["samples"]["bg"] == {"kept": 4, "rejected": {"refused": 1}}
    assert len(speaker.asked) == 5
    speaker.finish = "length"
    told = refused(capsys, *arguments(speaker, data, tmp_path / "two", "bg", 5))
    assert 'none of 5 translations can be used ({"bg": {"kept": 0, "rejected": {"cut off": 5}}})' in told


@pytest.mark.parametrize("status", [401, 404])
def test_an_endpoint_that_will_not_answer_is_said_in_one_line(speaker, data, tmp_path, capsys, status):
    speaker.faults = [(status, {})] * 40
    told = refused(capsys, *arguments(speaker, data, tmp_path / "multi"))
    assert f"{speaker.url} does not answer model 'm' (Error code: {status}" in told
    assert len(speaker.asked) <= 4  # the others are not asked


def test_an_endpoint_that_refuses_all_is_left_alone(speaker, data, tmp_path, capsys):
    speaker.faults = [(400, {})] * 100
    told = refused(capsys, *arguments(speaker, data, tmp_path / "multi", "bg,zh,fr", 12))
    assert "refused the first 20 requests" in told
    assert len(speaker.asked) < 30


def test_a_killed_translation_goes_on_and_becomes_the_same(speaker, data, tmp_path):
    expected = translated_data(speaker, data, tmp_path / "whole")
    speaker.asked.clear()
    speaker.seconds = 0.1
    asked = arguments(speaker, data, tmp_path / "multi")
    notes = tmp_path / "multi.partial/translations.jsonl"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for _ in range(2):
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "comem-lmms"), "training-data", *asked],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = notes.read_bytes().count(b"\n") if notes.exists() else 0
        while process.poll() is None and (not notes.exists() or notes.read_bytes().count(b"\n") < before + 3):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "multi").exists()
    with notes.open("ab") as file:
        file.write(b'{"row": 1, "langu')  # as a process leaves it that is killed while it writes
    speaker.seconds = 0.0
    out = translated_data(speaker, data, tmp_path / "multi")
    assert list(out) == list(expected)
    assert out.manifest == {**expected.manifest, "fingerprint": out.manifest["fingerprint"]}
    assert out.manifest["fingerprint"] == expected.manifest["fingerprint"]
    # At most what was under way when it was killed, and for each of the two workers what had come and was not yet kept.
    assert len(speaker.asked) <= 10 + 2 * (2 + 2)
    assert not notes.parent.exists()


def test_what_was_begun_otherwise_is_not_gone_on_with(speaker, data, tmp_path, capsys):
    speaker.faults = [(401, {})] * 2
    refused(capsys, *arguments(speaker, data, tmp_path / "multi"))
    told = refused(capsys, *arguments(speaker, data, tmp_path / "multi"), "--temperature", 0.5)
    assert f"{tmp_path / 'multi.partial'} was begun with translator" in told


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--languages", "bg,xx"), "language 'xx' has no name here; give CODE=NAME, e.g. xx=German"),
        (("--per-language", "13"), "--per-language 13, but there are 12 samples in other languages"),
        (("--languages", "en"), "there are 0 samples in other languages"),
    ],
)
def test_languages_and_numbers(speaker, data, tmp_path, capsys, more, says):
    assert says in refused(capsys, *arguments(speaker, data, tmp_path / "multi"), *more)
    assert not speaker.asked


def test_a_language_can_be_named(speaker, data, tmp_path):
    out = translated_data(speaker, data, tmp_path / "multi", "gsw=Swiss German", 1)
    assert out.manifest["tasks"]["made"] == {"en": 12, "gsw": 1}
    assert "Swiss German" in speaker.asked[0]


def test_a_local_model_translates(data, tmp_path):
    """The bundled VLM knows no language but MicroSeek's, so what it says is no translation; it is asked, once each."""
    local = Local("micro", batch_size=2, max_new_tokens=4, device="cpu")
    chats = [
        [{"role": "user", "content": [{"type": "text", "text": text}]}] for text in ("Who?", "What is it?", "Where?")
    ]
    assert sorted(number for number, _ in local.answer(chats)) == [0, 1, 2]
    for number, reply in local.answer(chats):
        alone = dict(local.answer([chats[number]]))[0]
        assert reply == alone
        assert isinstance(reply, str | Failure)


def test_a_local_model_is_asked_in_batches_from_the_command_line(data, tmp_path, capsys):
    told = refused(
        capsys, "translate", data, "--out", tmp_path / "x", "--languages", "bg", "--per-language", 3,
        "--model", "micro", "--max-new-tokens", 4, "--device", "cpu",
    )  # fmt: skip
    assert "none of 3 translations can be used" in told


# ---- merging and reading --------------------------------------------------------------------------------------------


def test_merged_data_has_each_sample_once(speaker, data, tmp_path, capsys):
    translated_data(speaker, data, tmp_path / "multi", "bg", 3)
    assert main(["training-data", "merge", str(data), str(tmp_path / "multi"), "--out", str(tmp_path / "all")]) == 0
    merged = SampleFolder.open(tmp_path / "all")
    assert list(merged) == list(SampleFolder.open(tmp_path / "multi"))
    assert merged.manifest["fingerprint"] == SampleFolder.open(tmp_path / "multi").manifest["fingerprint"]
    assert merged.manifest["repeated"] == {"made": 12}
    manifest = json.loads((data / "manifest.json").read_text())
    shutil.copytree(data, tmp_path / "other")
    manifest["knowledge"]["fingerprint"] = "a" * 64
    (tmp_path / "other/manifest.json").write_text(json.dumps(manifest))
    told = refused(capsys, "merge", data, tmp_path / "other", "--out", tmp_path / "both")
    assert f"{tmp_path / 'other'} is of knowledge base aaaaaaaaaaaa, {data} of ffffffffffff" in told


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no training data at"),
        (lambda folder: (folder / "manifest.json").write_text('{"what": "a bank"}'), "is not that of training data"),
        (lambda folder: (folder / "state.json").unlink(), "cannot be read"),
        (lambda folder: shutil.rmtree(folder), "no training data at"),
    ],
)
def test_damaged_training_data_is_refused(data, tmp_path, capsys, spoil, says):
    spoil(data)
    assert says in refused(capsys, "stats", data)


def test_translate_in_python(speaker, data, tmp_path):
    """As the command does it, with a translator of one's own."""

    class Shouting:
        about = {"model": "shouting"}  # noqa: RUF012
        tries = 1

        def answer(self, chats):
            for number, chat in enumerate(chats):
                yield number, translated(chat[0]["content"][0]["text"])

    manifest = translate(SampleFolder.open(data), tmp_path / "x", {"bg": "Bulgarian"}, 2, 0, Shouting())
    assert manifest["samples"] == 14
