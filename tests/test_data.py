"""Benchmarks' data: prepared as published, refused where it is not, and described."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import datasets
import pytest
from hosting import hosting, moved, publish
from PIL import Image

from comem_lmms import cli, data
from comem_lmms.data import images, lock, places, sources, store
from comem_lmms.data.check import check, table
from comem_lmms.data.http import Client
from comem_lmms.data.prepare import prepare
from comem_lmms.data.sources import SOURCES
from comem_lmms.errors import UserError
from comem_lmms.files import sha256

QUICK = Client("me@example.org", pause=0.0, sleep=lambda seconds: None)
ROWS = [
    {"data_id": "v_1", "image_id": "oven_1", "question": "Who?", "answer": ["Ada"], "answer_eval": ["Ada", "A."]},
    {"data_id": "v_2", "image_id": "oven_2", "question": "When?", "answer": ["1869"], "answer_eval": ["1868", "1869"]},
    {
        "data_id": "v_3",
        "image_id": "oven_1",
        "question": "How high?",
        "answer": ["10"],
        "answer_eval": [{"wikidata": 10.0, "range": [9.0, 11.0]}],
    },
]
ROWS = [{**row, "data_split": "val_unseen_entity"} for row in ROWS]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def picture(path: Path | None = None, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG" if path and path.suffix == ".png" else "JPEG")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _root(tmp_path, monkeypatch):
    monkeypatch.setenv("COMEM_DATA", str(tmp_path / "data"))


@pytest.fixture
def host():
    with hosting() as host:
        yield host


@pytest.fixture
def shards(tmp_path) -> Path:
    """Images as the extracted shards of OVEN hold them."""
    picture(tmp_path / "shards/shard01/00/oven_1.JPEG", "red")
    picture(tmp_path / "shards/shard02/oven_2.png", "blue")
    return tmp_path / "shards"


@pytest.fixture
def infoseek(host):
    """InfoSeek with three questions, and its official types."""
    host.files["/infoseek/infoseek_val.jsonl"] = lines(ROWS)
    return moved(SOURCES["infoseek"], host, {"validation": 3})


def prepared(name: str, split: str) -> datasets.Dataset:
    return datasets.load_from_disk(data.prepared(name))[split]


def test_infoseek_is_prepared(infoseek, host, shards, caplog):
    host.files["/infoseek/infoseek_val_qtype.jsonl"] = lines(
        [{"data_id": f"v_{n}", "question_type": kind} for n, kind in ((1, "String"), (2, "string"), (3, "numerical"))]
    )
    host.files["/infoseek/infoseek_val_withkb.jsonl"] = lines(
        [{"data_id": f"v_{n}", "entity_id": f"Q{n}", "entity_text": f"Page {n}"} for n in (3, 1)]
    )
    (said,) = prepare(infoseek, str(shards), QUICK)
    assert said == f"infoseek: validation 3 documents and 2 images in {data.root() / 'infoseek'}"
    rows = prepared("infoseek", "validation")
    assert rows.features == datasets.Features(
        {
            **dict.fromkeys(("data_id", "image_id"), datasets.Value("string")),
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            **dict.fromkeys(("answer", "answer_eval"), datasets.List(datasets.Value("string"))),
            "answer_range": datasets.List(datasets.Value("float64")),
            **dict.fromkeys(("data_split", "question_type", "entity_id", "entity_text"), datasets.Value("string")),
        }
    )
    assert rows["question_type"][:] == ["String", "String", "Numerical"]
    assert rows["entity_text"][:] == ["Page 1", "", "Page 3"]
    assert rows["entity_id"][:] == ["Q1", "", "Q3"]
    assert rows["answer_eval"][:] == [["Ada", "A."], ["1868", "1869"], []]
    assert rows["answer_range"][:] == [[], [], [9.0, 11.0]]
    assert rows[1]["image"].size == (8, 6)
    assert rows[1]["image"].getpixel((0, 0)) == (0, 0, 255)
    assert store.manifest(data.root() / "infoseek")["question_types"] == "official"


def test_images_stay_where_they_are(infoseek, shards):
    prepare(infoseek, str(shards), QUICK)
    rows = prepared("infoseek", "validation").cast_column("image", datasets.Image(decode=False))
    assert rows[0]["image"] == {"bytes": None, "path": str(shards.resolve() / "shard01/00/oven_1.JPEG")}


def test_types_are_derived_where_the_official_ones_cannot_be_had(infoseek, shards, caplog):
    said = prepare(infoseek, str(shards), QUICK)
    assert "question types were derived" in said[1]
    assert "derived from its answers, not the official ones" in caplog.text
    assert prepared("infoseek", "validation")["question_type"][:] == ["String", "Time", "Numerical"]
    assert store.manifest(data.root() / "infoseek")["question_types"] == "derived"


def test_a_type_that_the_official_file_lacks_is_not_made_up(infoseek, host, shards):
    host.files["/infoseek/infoseek_val_qtype.jsonl"] = lines([{"data_id": "v_1", "question_type": "String"}])
    with pytest.raises(UserError, match="no type of question v_2"):
        prepare(infoseek, str(shards), QUICK)


def test_translations_keep_english_answers_and_what_was_not_translated(host, shards):
    host.files["/comem/infoseek_val.jsonl"] = lines(ROWS)
    translated = [
        {**ROWS[2], "question": "¿Cuánto mide?"},
        {**ROWS[1], "question": "¿Cuándo?", "answer": ["el año 1869"], "answer_eval": ["el año 1869"]},
    ]
    host.files["/comem/infoseek_val_portuguese.jsonl"] = lines(translated)
    prepare(moved(SOURCES["infoseek_pt"], host, {"validation": 3}), str(shards), QUICK)
    rows = prepared("infoseek_pt", "validation")
    assert rows["data_id"][:] == ["v_1", "v_2", "v_3"]
    assert rows["question"][:] == ["Who?", "¿Cuándo?", "¿Cuánto mide?"]
    assert rows["answer"][:] == [["Ada"], ["1869"], ["10"]]
    assert rows["question_type"][:] == ["String", "Time", "Numerical"]
    assert rows["answer_translated"][:] == [["Ada"], ["el año 1869"], ["10"]]
    assert rows["answer_eval_translated"][:] == [["Ada", "A."], ["el año 1869"], []]
    host.files["/comem/infoseek_val_portuguese.jsonl"] = lines([{**ROWS[0], "data_id": "other"}])
    with pytest.raises(UserError, match="other is not in"):
        prepare(moved(SOURCES["infoseek_pt"], host, {"validation": 3}), str(shards), QUICK, force=True)


def test_oven_has_two_splits_and_says_how_to_index_titles(host, shards):
    query = {
        "data_id": "q_1",
        "image_id": "oven_1",
        "question": "what is this?",
        "entity_id": "Q1",
        "entity_text": "One",
    }
    host.files["/oven/oven_query_val.jsonl"] = lines([{**query, "data_split": "query_val_seen"}])
    host.files["/oven/oven_entity_val.jsonl"] = lines(
        [{**query, "data_id": f"e_{n}", "image_id": "oven_2", "data_split": "entity_val_unseen"} for n in range(2)]
    )
    host.files["/oven/Wiki6M_ver_1_0_title_only.jsonl"] = lines([{"wikidata_id": "Q1", "wikipedia_title": "One"}])
    source = moved(SOURCES["oven"], host, {"query": 1, "entity": None})
    _, said = prepare(source, str(shards), QUICK)
    command = (
        f"comem-lmms link build {places.downloads()}/oven/Wiki6M_ver_1_0_title_only.jsonl --out {data.root()}/titles"
    )
    assert said.endswith(command)
    assert prepared("oven", "query")[0]["entity_id"] == "Q1"
    assert len(prepared("oven", "entity")) == 2
    with pytest.raises(UserError, match=re.escape(command)):
        data.titles()
    (status,) = check([source])
    assert (status.state, status.command) == ("partly", command)
    (data.root() / "titles").mkdir()
    (data.root() / "titles/manifest.json").write_text("{}")
    assert data.titles() == str(data.root() / "titles")
    assert check([source])[0].state == "ready"
    with pytest.raises(UserError, match="1 documents, but 2 were prepared"):
        data.verify(range(1), "oven", "entity")


def test_okvqa_is_fetched_image_by_image_where_the_user_has_none(host, tmp_path):
    def zipped(content: dict) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("some.json", json.dumps(content))
        return buffer.getvalue()

    questions = [{"image_id": n, "question": f"Why {n}?", "question_id": n * 10} for n in (1, 2, 3)]
    answers = [{"raw_answer": f"racing {n}", "answer": "race"} for n in range(10)]
    annotations = [{"question_id": n * 10, "question_type": "one", "answers": answers} for n in (3, 2, 1)]
    host.files["/okvqa/OpenEnded_mscoco_train2014_questions.json.zip"] = zipped({"questions": questions})
    host.files["/okvqa/mscoco_train2014_annotations.json.zip"] = zipped(
        {"annotations": annotations, "question_types": {"one": "Vehicles"}}
    )
    source = moved(SOURCES["okvqa_train"], host, {"train": 3})
    picture(tmp_path / "coco/COCO_train2014_000000000001.jpg")
    with pytest.raises(UserError, match=r"2 of its images are missing; .*--contact MAIL"):
        prepare(source, str(tmp_path / "coco"), Client())
    host.files["/images/COCO_train2014_000000000002.jpg"] = picture()
    host.files["/images/COCO_train2014_000000000003.jpg"] = b"<html>please wait</html>"
    with pytest.raises(UserError, match=r"1 of 3 images are missing or damaged \(COCO_train2014_000000000003\)"):
        prepare(source, None, QUICK)
    del host.files["/images/COCO_train2014_000000000003.jpg"]
    with pytest.raises(UserError, match="1 of 3 images are missing"):
        prepare(source, None, QUICK)
    host.files["/images/COCO_train2014_000000000003.jpg"] = picture(colour="green")
    prepare(source, None, QUICK)
    rows = prepared("okvqa_train", "train")
    assert rows["question_id"][:] == ["10", "20", "30"]
    assert rows[0]["answers"] == [f"racing {n}" for n in range(10)]
    assert rows[0]["question_type"] == "Vehicles"
    assert len(host.asked("/images/COCO_train2014_000000000001.jpg")) == 0
    assert len(host.asked("/images/COCO_train2014_000000000002.jpg")) == 1


def test_evqa_finds_images_by_inaturalists_numbers_and_landmarks_names(host, tmp_path):
    table = io.StringIO()
    fields = ("question", "question_original", "question_type", "answer", "dataset_image_ids", "dataset_name")
    writer = csv.DictWriter(table, (*fields, "wikipedia_url", "wikipedia_title"))
    writer.writeheader()
    common = {"question_original": "", "question_type": "templated", "wikipedia_url": "u", "wikipedia_title": "t"}
    writer.writerow(
        {
            **common,
            "question": "How big?",
            "answer": "5 cm|5",
            "dataset_image_ids": "7|8",
            "dataset_name": "inaturalist",
        }
    )
    writer.writerow(
        {**common, "question": "Which?", "answer": "a&&b", "dataset_image_ids": "00ff", "dataset_name": "landmarks"}
    )
    host.files["/evqa/train.csv"] = table.getvalue().encode()
    folder = tmp_path / "images"
    picture(folder / "inat/train/00000_Animalia/aa-bb.jpg")
    picture(folder / "landmarks/train/0/0/f/00ff.jpg")
    (folder / "inat/train.json").write_text(
        json.dumps({"images": [{"id": 7, "file_name": "train/00000_Animalia/aa-bb.jpg"}]})
    )
    prepare(moved(SOURCES["evqa_train"], host, {"train": None}), str(folder), QUICK)
    rows = prepared("evqa_train", "train")
    assert rows["answers"][:] == [["5 cm", "5"], ["a, b"]]
    assert rows["question_id"][:] == ["evqa_train_0000000", "evqa_train_0000001"]
    assert rows[0]["image"].size == (8, 6)


def test_viquae_comes_from_the_hub(host, run):
    """Through the real command and the real table; only the Hub is another."""
    rows = [
        {
            "id": f"id_{n}",
            "image": f"512px-{n % 2}.jpg",
            "input": "who?",
            "output": {"answer": ["Levi's", "levis"], "original_answer": "Levi's", "provenance": []},
            "wikidata_id": "Q1",
        }
        for n in range(1_257)
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for n in range(2):
            member = tarfile.TarInfo(f"images/512px-{n}.jpg")
            member.size = len(picture())
            archive.addfile(member, io.BytesIO(picture()))
    host.headers["X-Repo-Commit"] = "c" * 40
    host.files["/datasets/PaulLerner/viquae_dataset/resolve/main/test.jsonl"] = lines(rows)
    host.files["/datasets/PaulLerner/viquae_images/resolve/main/images.tar.gz"] = buffer.getvalue()
    environment = {"HF_ENDPOINT": host.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = run("comem-lmms", "data", "prepare", "viquae", **environment)
    assert f"viquae: test 1,257 documents and 2 images in {data.root() / 'viquae'}" in done.stdout
    found = prepared("viquae", "test")
    assert found[0]["answers"] == ["Levi's", "levis"]
    assert found[1]["image"].size == (8, 6)
    del host.files["/datasets/PaulLerner/viquae_dataset/resolve/main/test.jsonl"]
    gone = run("comem-lmms", "data", "prepare", "viquae", "--force", check=False, **environment)
    assert gone.returncode == 2
    assert "cannot download PaulLerner/viquae_dataset from the Hub" in gone.stdout
    assert "Traceback" not in gone.stdout


def test_cvqa_comes_from_the_hub_at_its_commit_and_is_there_without_a_network(host, run, tmp_path):
    """Through the real command and the real table; only the Hub is another."""
    commit = str(SOURCES["cvqa"].revision)
    datasets.Dataset.from_dict({"ID": [str(n) for n in range(10_374)]}).to_parquet(tmp_path / "rows.parquet")
    card = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: test-*\n---\n"
    files = {"README.md": card, "test-0.parquet": (tmp_path / "rows.parquet").read_bytes()}
    environment = {**publish(host, "afaji/cvqa", commit, files), "HF_HOME": str(tmp_path / "hub")}
    done = run("comem-lmms", "data", "prepare", "cvqa", **environment)
    assert "cvqa: test 10,374 documents of afaji/cvqa at e9e152e, images inside" in done.stdout
    assert "ready  10,374/10,374" in run("comem-lmms", "data", "check", "cvqa", **environment).stdout
    load = (
        "from datasets import load_dataset\n"
        f"print([load_dataset('afaji/cvqa', revision=at)['test'].num_rows for at in (None, {commit!r})])"
    )
    again = run("python", "-c", load, **{**environment, "HF_HUB_OFFLINE": "1"})
    assert again.stdout.endswith("[10374, 10374]\n")


def test_m2kr_images_are_unpacked(host, tmp_path, monkeypatch):
    """Where the archive lies already, and an interrupted unpacking is gone on with."""
    host.files["/comem/infoseek_val.jsonl"] = lines(ROWS)
    source = moved(SOURCES["infoseek_paper"], host, {"validation": 3})
    archive = places.downloads() / "m2kr/infoseek_val_images.tar"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w") as file:
        for name in ("oven_1.jpg", "oven_2.JPEG"):
            member = tarfile.TarInfo(f"infoseek_val_images/{name}")
            member.size = len(picture())
            file.addfile(member, io.BytesIO(picture()))
    half = places.images("m2kr") / "infoseek_val_images/oven_1.jpg"
    half.parent.mkdir(parents=True)
    half.write_bytes(picture()[:50])
    prepare(source, "m2kr", QUICK)
    assert half.read_bytes() == picture()
    assert len(prepared("infoseek_paper", "validation")) == 3
    with pytest.raises(UserError, match="--images m2kr is not a folder"):
        prepare(replace(source, images=SOURCES["oven"].images), "m2kr", QUICK)


def test_archives_cannot_write_elsewhere(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as file:
        member = tarfile.TarInfo("../outside.jpg")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="cannot unpack"):
        images.extract(tmp_path / "bad.tar", tmp_path / "inside")
    assert not (tmp_path / "outside.jpg").exists()
    (tmp_path / "cut.tar").write_bytes(b"no tar file")
    with pytest.raises(UserError, match="cannot unpack"):
        images.extract(tmp_path / "cut.tar", tmp_path / "inside")


def test_missing_and_damaged_images_are_named_and_downloads_kept(infoseek, host, shards):
    (shards / "shard02/oven_2.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 2 images are missing or damaged \(oven_2\); give --images FOLDER: OVEN"):
        prepare(infoseek, str(shards), QUICK)
    with pytest.raises(
        UserError, match=r"there is no .*run: comem-lmms data prepare infoseek --images m2kr \(or FOLDER\)"
    ):
        data.prepared("infoseek")
    picture(shards / "shard02/oven_2.png")
    prepare(infoseek, None, QUICK)  # the folder is known from before
    assert len(host.asked("/infoseek/infoseek_val.jsonl")) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lines(ROWS) + b'{"data_id": ', r"infoseek_val.jsonl, line 4: not JSON"),
        (lines([*ROWS, ROWS[1]]), r"infoseek_val.jsonl, line 4: data_id 'v_2' is that of line 2"),
        (lines([*ROWS[:2], {"data_id": "v_9"}]), r"infoseek_val.jsonl, line 3: no image_id"),
        (lines([*ROWS, {**ROWS[0], "data_id": "v_9"}]), r"4 documents, but 3 are published"),
        (lines(ROWS[:2]), r"2 documents, but 3 are published"),
        (lines([*ROWS[:2], {**ROWS[2], "answer_eval": [{"wikidata": 1}]}]), r"is not laid out as infoseek is known"),
        (b"[]\n", "line 1: a list, not an object"),
    ],
)
def test_damaged_annotations_are_refused(infoseek, host, shards, content, said):
    host.files["/infoseek/infoseek_val.jsonl"] = content
    with pytest.raises(UserError, match=said):
        prepare(infoseek, str(shards), QUICK)


def test_a_shrunken_translation_is_refused(host, shards):
    host.files["/comem/infoseek_val.jsonl"] = host.files["/comem/infoseek_val_chinese.jsonl"] = lines(ROWS)
    source = moved(SOURCES["infoseek_zh"], host, {"validation": 3})
    files = (source.files[0], replace(source.files[1], rows=4_708), *source.files[2:])
    with pytest.raises(UserError, match=r"has 3 rows, but 4,708 are published"):
        prepare(replace(source, files=files), str(shards), QUICK)


def test_preparing_again_does_nothing_unless_forced(infoseek, host, shards):
    prepare(infoseek, str(shards), QUICK)
    asked = len(host.requests)
    (said,) = prepare(infoseek, None, QUICK)
    assert "prepared already" in said
    assert len(host.requests) == asked
    host.files["/infoseek/infoseek_val.jsonl"] = lines([{**ROWS[0], "question": "Changed?"}, *ROWS[1:]])
    prepare(infoseek, None, QUICK, force=True)
    assert prepared("infoseek", "validation")[0]["question"] == "Changed?"


def test_folders_of_any_size_are_walked_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_BATCH", 3)
    for number in range(7):
        picture(tmp_path / f"{number}.jpg")
    assert images.index(tmp_path, tmp_path / "index.parquet") == 7
    keys = {str(number) for number in range(9)}
    assert images.locate(tmp_path / "index.parquet", keys, "stem").keys() == keys - {"7", "8"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        images.index(tmp_path / "empty", tmp_path / "index.parquet")


def test_links_in_circles_end(infoseek, shards):
    (shards / "shard01/up").symlink_to(shards, target_is_directory=True)
    prepare(infoseek, str(shards), QUICK)


def test_an_interrupted_preparation_leaves_what_was_there(infoseek, host, shards):
    """Killed while it looks at the images; then it goes on without downloading again."""
    program = (
        "import os, signal, sys\n"
        "from dataclasses import replace\n"
        "from comem_lmms.data import images, sources\n"
        "from comem_lmms.data.prepare import prepare\n"
        "images.is_image = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "source = sources.SOURCES['infoseek']\n"
        "files = tuple(replace(f, url=f'{sys.argv[1]}/{f.name}') for f in source.files)\n"
        "prepare(replace(source, files=files, counts={'validation': 3}), sys.argv[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, host.url, str(shards)], check=False)
    assert done.returncode == -9
    asked = len(host.asked("/infoseek/infoseek_val.jsonl"))
    prepare(infoseek, None, QUICK)
    assert len(host.asked("/infoseek/infoseek_val.jsonl")) == asked == 1
    assert len(prepared("infoseek", "validation")) == 3


@pytest.fixture
def okvqa(tmp_path, monkeypatch):
    """OK-VQA as a repository of the Hub in a folder."""
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = datasets.Dataset.from_list([{"question_id": str(n), "question": "?"} for n in range(4)])
    rows.to_parquet(tmp_path / "hub/val2014-00000-of-00001.parquet")
    (tmp_path / "hub/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: val2014\n    path: val2014-*\n---\n"
    )
    return replace(SOURCES["okvqa"], hub=str(tmp_path / "hub"), counts={"val2014": 4})


def test_a_data_set_of_the_hub_is_fetched_and_remembered(okvqa, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "okvqa", okvqa)  # type: ignore[arg-type]
    (said,) = prepare(okvqa)
    assert said.startswith("okvqa: val2014 4 documents of")
    assert check([okvqa])[0].state == "ready"
    rows = datasets.Dataset.from_list([{"question_id": str(n)} for n in (3, 2, 1, 0)])
    assert data.verify(rows, "okvqa", "val2014") is rows
    with pytest.raises(UserError, match="3 documents, but 4 are published"):
        data.verify(rows.select(range(3)), "okvqa", "val2014")
    others = datasets.Dataset.from_list([{"question_id": str(n)} for n in (3, 2, 1, 9)])
    with pytest.raises(UserError, match="the questions are others than when it was first seen"):
        data.verify(others, "okvqa", "val2014")
    with pytest.raises(UserError, match="no split 'test'"):
        data.verify(rows, "okvqa", "test")
    with pytest.raises(UserError, match="is loaded from the Hub"):
        data.prepared("okvqa")
    with pytest.raises(UserError, match="leave --images out"):
        prepare(okvqa, "folder")
    with pytest.raises(
        UserError, match=r'but 5 are published; write \{"commit": "HASH"\} to .*lock/okvqa.json'
    ) as error:
        prepare(replace(okvqa, counts={"val2014": 5}))
    assert "--force" not in str(error.value)


def test_check_finds_what_lmms_eval_loaded_by_itself(okvqa, tmp_path):
    assert [(s.state, s.to_download) for s in check([okvqa])] == [("missing", okvqa.size)]
    datasets.load_dataset(okvqa.hub, cache_dir=str(tmp_path / "cache"))
    (status,) = check([okvqa])
    assert (status.state, status.documents, status.to_download) == ("ready", 4, 0)
    (table,) = (tmp_path / "cache").rglob("*.arrow")
    assert status.on_disk == table.stat().st_size
    (status,) = check([replace(okvqa, counts={"val2014": 5})])
    assert (status.state, status.documents, status.published, status.to_download) == ("partly", 4, 5, okvqa.size)
    assert check([replace(okvqa, revision="f" * 40)])[0].state == "missing"  # the cache has another commit
    table.unlink()
    assert check([okvqa])[0].state == "missing"


def test_another_number_of_documents_comes_with_what_helps(okvqa, infoseek, shards, host, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "okvqa", okvqa)  # type: ignore[arg-type]
    monkeypatch.setitem(sources.SOURCES, "infoseek", infoseek)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"3 documents, but 4 are published; write .* and run: comem-lmms data prepare"):
        data.verify(range(3), "okvqa", "val2014")
    lock.write("okvqa", {"commit": "f" * 40})
    with pytest.raises(UserError, match=r"the cache has others than .* at ffff.*run: comem-lmms data prepare okvqa$"):
        data.verify(range(3), "okvqa", "val2014")
    with pytest.raises(
        UserError, match=r"changed since it was prepared; run: comem-lmms data prepare infoseek --force"
    ):
        data.verify(range(2), "infoseek", "validation")
    host.files["/infoseek/infoseek_val.jsonl"] = lines(ROWS[:2])
    with pytest.raises(UserError, match=r"if that brings the same, put the published file in place of .*_val.jsonl$"):
        prepare(infoseek, str(shards), QUICK)


def test_what_is_verified_first_counts(okvqa, monkeypatch):
    """Where lmms-eval loaded a data set that was never prepared."""
    monkeypatch.setitem(sources.SOURCES, "okvqa", okvqa)  # type: ignore[arg-type]
    data.verify(datasets.Dataset.from_list([{"question_id": str(n)} for n in range(4)]), "okvqa", "val2014")
    assert lock.read("okvqa")["splits"].keys() == {"val2014"}
    with pytest.raises(UserError, match="others"):
        data.verify(datasets.Dataset.from_list([{"question_id": f"{n}a"} for n in range(4)]), "okvqa", "val2014")


def test_revisions_are_pinned_or_those_first_seen():
    assert data.revision("cvqa") == "e9e152ea75246029e57bbca7d0b1d156b900be17"
    assert data.revision("okvqa") is None
    lock.write("okvqa", {"commit": "f" * 40})
    assert data.revision("okvqa") == "f" * 40


def test_check_says_what_is_there_and_what_it_costs(infoseek, host, shards):
    paper = moved(SOURCES["infoseek_paper"], host)
    missing, other = check([paper, SOURCES["viquae"]])
    assert (missing.state, missing.documents, missing.published) == ("missing", 0, 4_708)
    assert missing.to_download == 1_457_579 + 8_960_000_000
    assert (other.to_download, other.at_least) == (0, True)
    begun = places.downloads() / "comem/infoseek_val.jsonl.partial"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"x" * 1_000_000)
    (partly,) = check([paper])
    assert (partly.state, partly.to_download) == ("partly", 457_579 + 8_960_000_000)
    prepare(infoseek, str(shards), QUICK)
    (ready,) = check([infoseek])
    assert (ready.state, ready.documents, ready.images, ready.images_needed) == ("ready", 3, 2, 2)
    assert ready.on_disk > 500
    assert "comem-lmms" not in table([ready])
    (shards / "shard02/oven_2.png").unlink()
    (broken,) = check([infoseek])
    assert (broken.state, broken.images) == ("partly", 1)
    assert "comem-lmms data prepare infoseek --images m2kr (or FOLDER)" in table([broken])


def test_check_counts_the_images_that_are_known(infoseek, host, shards, tmp_path):
    """Half prepared: the folder was walked, an image lacks, then it is there."""
    oven = replace(infoseek, images=SOURCES["oven"].images)
    for source, cost, command in (
        (infoseek, 8_960_000_000, "comem-lmms data prepare infoseek --images m2kr (or FOLDER)"),
        (oven, 261_000_000_000, "comem-lmms data prepare infoseek --images FOLDER"),
    ):
        (status,) = check([source])
        assert (status.to_download - source.files[0].cost, status.command) == (cost, command)
    (shards / "shard02/oven_2.png").rename(tmp_path / "oven_2.png")
    with pytest.raises(UserError, match="1 of 2 images are missing"):
        prepare(infoseek, str(shards), QUICK)
    (status,) = check([infoseek])
    assert (status.state, status.images, status.images_needed) == ("partly", 1, 2)
    assert (status.to_download, status.at_least) == (8_960_000_000, False)
    (status,) = check([oven])
    assert (status.to_download, status.at_least) == (0, True)
    (tmp_path / "oven_2.png").rename(shards / "shard02/oven_2.png")
    images.index(shards, places.index("oven"))
    (status,) = check([infoseek])
    assert (status.state, status.images, status.to_download, status.at_least) == ("partly", 2, 0, False)
    assert status.command == "comem-lmms data prepare infoseek"
    assert status.on_disk > sum(path.stat().st_size for path in shards.rglob("*.*"))
    prepare(infoseek, None, QUICK)
    assert check([infoseek])[0].state == "ready"


def test_check_knows_archives_that_are_there_or_begun(infoseek):
    archive = places.downloads() / "m2kr/infoseek_val_images.tar"
    begun = archive.with_name(f"{archive.name}.hub") / ".cache/huggingface/download/x.incomplete"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"x" * 1_000_000)
    annotations = infoseek.files[0].cost
    (status,) = check([infoseek])
    assert (status.state, status.to_download) == ("partly", annotations + 8_959_000_000)
    archive.write_bytes(b"")
    assert check([infoseek])[0].to_download == annotations


def test_a_wrong_folder_is_said_before_anything_is_downloaded(infoseek, host, tmp_path):
    with pytest.raises(UserError, match=r"--images .*nowhere is not a folder"):
        prepare(infoseek, str(tmp_path / "nowhere"), QUICK)
    assert not host.requests


def test_a_place_that_cannot_be_written_is_one_line(okvqa, infoseek, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sources.SOURCES, "infoseek", infoseek)  # type: ignore[arg-type]
    monkeypatch.setitem(sources.SOURCES, "okvqa", okvqa)  # type: ignore[arg-type]
    (tmp_path / "file").write_bytes(b"")
    places.root().mkdir()
    for folder in ("images", "infoseek.partial", "lock"):  # a step after the other
        (places.root() / folder).symlink_to(tmp_path / "file")
    for name, *more in (("infoseek", "--images", str(shards)), ("okvqa",)):
        assert cli.main(["data", "prepare", name, *more]) == 2
        assert re.search(
            r"comem-lmms: cannot write .*; put that right and run it again: .*\n$", capsys.readouterr().err
        )
    for folder in ("images", "infoseek.partial", "lock"):
        (places.root() / folder).unlink()
    assert cli.main(["data", "prepare", "infoseek", "--images", str(shards)]) == 0
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "file"))
    assert cli.main(["data", "check", "infoseek", "okvqa"]) == 1


def test_the_command_line_checks_and_prepares(infoseek, shards, monkeypatch, capsys):
    monkeypatch.setitem(sources.SOURCES, "infoseek", infoseek)  # type: ignore[arg-type]
    assert cli.main(["data", "check"]) == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in SOURCES)
    assert cli.main(["data", "prepare", "infoseek", "--images", str(shards)]) == 0
    assert cli.main(["data", "check", "infoseek"]) == 0
    assert cli.main(["data", "prepare", "infosek"]) == 2
    assert "there is no data set 'infosek'; there are infoseek, " in capsys.readouterr().err


def test_the_root_is_where_the_user_wants_it(monkeypatch, tmp_path):
    assert data.root() == tmp_path / "data"
    monkeypatch.delenv("COMEM_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.root() == tmp_path / "comem-lmms/data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.root() == Path.home() / ".cache/comem-lmms/data"


def test_every_source_is_whole():
    for name, source in SOURCES.items():
        assert source.name == name
        assert bool(source.hub) != bool(source.files)
        assert source.licence
        for file in (*source.files, *([source.titles] if source.titles else [])):
            assert urlsplit(file.url).scheme in ("http", "https") if file.url else file.repository
    names = [file for source in SOURCES.values() for file in source.files]
    assert len({file.name for file in names}) == len(set(names)), "two files of one name"


@pytest.mark.parametrize("name", ["infoseek_paper", "infoseek_es", "oven_paper"])
def test_the_published_subsets_are_what_the_table_says(name, host, fixtures, tmp_path):
    """Real rows, which are not part of a clone, with made-up images: counts and checksums of the table hold."""
    folder = fixtures.parent / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not part of a clone")
    for path in folder.glob("*.jsonl"):
        host.files[f"/comem/{path.name}"] = path.read_bytes()
    host.files["/oven/Wiki6M_ver_1_0_title_only.jsonl"] = b""
    source = moved(SOURCES[name], host)
    picture(tmp_path / "one.jpg")
    shards = tmp_path / "shards"
    for path in folder.glob("*.jsonl"):
        for number, image in enumerate(re.findall(r'"image_id": "(\w+)"', path.read_text())):
            target = shards / f"shard{number % 8 + 1:02}" / f"{image}{('.jpg', '.JPEG', '.png')[number % 3]}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(tmp_path / "one.jpg", target)
    prepare(source, str(shards), QUICK)
    for split, count in source.counts.items():
        rows = prepared(name, split)
        assert data.verify(rows, name, split) is rows
        assert len(rows) == count
    if name != "oven_paper":
        assert len(store.image_paths(data.root() / name)) == 1_722
        assert [rows["question_type"][:].count(kind) for kind in ("Numerical", "Time", "String")] == [443, 463, 3_802]
        assert sha256(places.downloads() / "comem/infoseek_val.jsonl") == SOURCES[name].files[0].sha256
