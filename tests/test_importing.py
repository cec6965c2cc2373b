"""The reference's retrieval results as a knowledge base and a run.

``data/mds`` was written by mosaicml-streaming 0.13.0: four samples in three shards, about the
questions below.
"""

import json
import shutil
from pathlib import Path

import pytest
from helpers import answers, evaluate, usages
from PIL import Image

from comem_lmms.cli import main
from comem_lmms.errors import UserError
from comem_lmms.importing import Imported
from comem_lmms.knowledge import KnowledgeBase, build, sources
from comem_lmms.knowledge.sources import mds
from comem_lmms.records import Query
from comem_lmms.runs import Run

FOLDER = Path(__file__).parent / "data/mds"
SAMPLES = {
    "realm-0004-founder": ["Red", "Green"],
    "realm-0004-capital": ["Green", "Blue", "Red"],
    "realm-0006-animal": ["Gray"],
    "realm-0006-bird": ["Blue", "Green"],
}


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FOLDER, tmp_path / "mds"))


@pytest.fixture
def base(tmp_path):
    build(sources.find(str(FOLDER)), tmp_path / "kb")
    return KnowledgeBase.open(tmp_path / "kb")


def importing(base, folder=FOLDER, match="id=question_id"):
    command = ["retrieval", "import", str(folder), "--knowledge", str(base.folder), "--tasks", "microseek"]
    return main([*command, "--match", match, "--out", str(base.folder.parent / "run"), "--limit", "6"])


def changed(folder, **settings):
    """Its index.json says something else of all shards."""
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:
        shard.update(settings)
    (folder / "index.json").write_text(json.dumps(index))


def test_items_are_stored_once(base):
    assert [base[i].text for i in range(4)] == [
        f"{c} page: it is {c.lower()}, é 你好." for c in ("Red", "Green", "Blue", "Gray")
    ]
    assert (len(base), base[0].title) == (4, "")
    assert base[0].image.getpixel((0, 0)) == (255, 0, 0)
    manifest = json.loads((base.folder / "manifest.json").read_text())
    assert (manifest["rows"], manifest["left_out"], manifest["rejects"]) == (8, {"repeated": 4}, {})


def test_a_run_of_samples_is_answered_from(base, capsys, caplog):
    assert importing(base) == 0
    said = capsys.readouterr().out
    assert "6 different queries of 6 documents" in said
    assert "2 documents have no sample, so no hits" in said
    titles = {base.id(row): base[row].text.split()[0] for row in range(4)}
    arguments = f"knowledge={base.folder},retrieval={base.folder.parent / 'run'},top_k=2"
    results = evaluate("vanilla_rag", model_args=arguments, limit=6)
    assert "3 of 6 questions have fewer than 2 hits in" in caplog.text
    assert ", 2 of them none" in caplog.text
    names = [sample["doc"]["id"] for sample in sorted(results["samples"]["microseek"], key=lambda s: s["doc_id"])]
    given = [[titles[id_] for id_ in one["retrieved"]] for one in usages(results)]
    assert given == [SAMPLES.get(name, [])[:2] for name in names]
    assert len(answers(results)) == 6
    run = Run.open(base.folder.parent / "run")
    assert run.manifest["index"]["imported_from"] == str(FOLDER)
    assert run.manifest["fewer_than_k"] == 6
    assert main(["retrieval", "eval", str(run.folder)]) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("| microseek | answer  | all ")]
    assert [cell.strip() for cell in line.split("|")][4:7] == ["6", "-", "2"]
    assert "not measured: microseek, item, 6 questions: the knowledge base has none of the right items" in said


def test_samples_of_one_image_are_told(base):
    """A run goes by the image, so the items of one of them count."""

    class Documents:
        task, columns = "t", ["id"]
        ids = ("realm-0004-founder", "realm-0004-capital", "unknown")

        def __len__(self):
            return 3

        def value(self, number, column):
            return self.ids[number]

        def query(self, number):
            return Query(str(number), [], Image.new("RGB", (8, 8)))

    imported = Imported(base, FOLDER, [Documents()], ("id", "question_id"))
    assert (imported.about["other_items_of_same_image"], imported.about["without_sample"]) == (1, 0)
    found = list(imported.search([Documents().query(number) for number in range(3)], 5))
    assert [[base[hit.row].text.split()[0] for hit in hits] for hits in found] == [["Red", "Green"]] * 3


def test_what_does_not_fit_is_one_line(base, folder, tmp_path, capsys):
    for match, message in (
        ("id=nothing", r"column 'nothing' is 'not there', not one of str, json"),
        ("nothing=question_id", "documents of task microseek have no 'nothing', but id, item_id"),
        ("item_id=question_id", "no document has a item_id that is a sample's question_id"),
        ("=question_id", "--match '=question_id' is not FIELD or FIELD=FIELD"),
    ):
        assert importing(base, folder, match=match) == 2
        assert message in capsys.readouterr().err
    other = KnowledgeBase.create(tmp_path / "other", [base.row(0)._replace(id="other")])
    assert importing(other) == 2
    assert f"has no item of {FOLDER}; make it with `comem-lmms kb build" in capsys.readouterr().err


def test_nothing_is_unpickled(folder):
    changed(folder, column_encodings=["int", "str", "pkl"])
    with pytest.raises(UserError, match=r"column 'retrieval_info' is 'pkl', not one of str, json"):
        next(mds.read(folder / "shard.00000.mds", "x", None))


def test_a_column_of_text_may_hold_the_json(folder, base, tmp_path):
    changed(folder, column_encodings=["int", "str", "str"])
    build(sources.find(str(folder)), tmp_path / "again")
    assert KnowledgeBase.open(tmp_path / "again").fingerprint == base.fingerprint


def test_reading_goes_on_anywhere(folder):
    source = sources.find(str(folder))
    reads = list(source.read())
    assert len(reads) == 8
    for number, read in enumerate(reads):
        assert list(source.read(read.position)) == reads[number + 1 :]


def test_a_damaged_shard_is_a_reject(folder, tmp_path):
    path = folder / "shard.00000.mds"
    path.write_bytes(path.read_bytes()[:-40])
    build(sources.find(str(folder)), tmp_path / "kb")
    assert "file_damaged" in (tmp_path / "kb/rejects.jsonl").read_text()
    with pytest.raises(UserError, match=r"shard.00000.mds is damaged \(.*\); copy it again"):
        Imported(KnowledgeBase.open(tmp_path / "kb"), folder, [], ("id", "question_id"))


def test_a_missing_and_a_compressed_shard(folder):
    (folder / "shard.00001.mds").rename(folder / "shard.00001.mds.zstd")
    with pytest.raises(UserError, match=r"shard.00001.mds is missing; copy the folder again"):
        sources.find(str(folder))
    changed(folder, zip_data={"basename": "shard.00001.mds.zstd"})
    with pytest.raises(UserError, match=r"is missing; decompress .*shard.00001.mds.zstd"):
        sources.find(str(folder))
    (folder / "index.json").write_text('{"shards": []}')
    with pytest.raises(UserError, match=r"index.json lists no MDS shards"):
        sources.find(str(folder))


def test_images_that_are_none_are_rejects(folder):
    entry = {"passage_content": "a", "image": "%%%"}
    for found, kind in (
        (entry, "wrong_kind"),
        ({**entry, "image": 3}, "wrong_kind"),
        ({"image": None}, "no_text"),
        ("text", "wrong_kind"),
        ({"passage_content": "half a pair: \ud800"}, "wrong_encoding"),
    ):
        assert mds._candidate(found, "here").kind == kind
    assert mds._candidate({"passage_content": "a"}, "here").image is None
