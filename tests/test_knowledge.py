"""A knowledge base keeps what it is given, and says what is wrong with it in one line."""

import io
import json
import random

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase, Row, Writer, shards
from comem_lmms.records import KnowledgeItem


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


ROWS = [
    Row("a", "Aldia", "The founder of Aldia was Petra.", png("red")),
    Row("b", "", "no title", png("blue")),
    Row("c", "no text", "", None),
]


def test_items_come_back_as_they_were(tmp_path):
    KnowledgeBase.create(tmp_path, ROWS, source="test")
    base = KnowledgeBase.open(tmp_path)
    assert [base.row(i) for i in range(3)] == ROWS
    assert [base.id(row) for row in range(3)] == ["a", "b", "c"]
    assert [base.find(id_) for id_ in ("a", "b", "c", "d")] == [0, 1, 2, None]
    assert base[0].image.getpixel((0, 0)) == (255, 0, 0)
    assert base[2].image is None
    assert base.manifest["source"] == "test"


def test_fingerprint_is_of_the_content_not_of_the_file(tmp_path):
    first = KnowledgeBase.create(tmp_path / "1", ROWS)
    writer = Writer(tmp_path / "2", {})
    for row in ROWS:  # other files: a chunk an item
        writer.add(row)
        writer.commit()
    assert writer.finish()["fingerprint"] == first.fingerprint
    assert [KnowledgeBase.open(tmp_path / "2").row(i) for i in range(3)] == ROWS


@pytest.mark.parametrize(
    "changed",
    [
        [ROWS[0]._replace(text="x"), *ROWS[1:]],
        [ROWS[0]._replace(title="AldiaThe", text="founder"), *ROWS[1:]],
        [ROWS[1], ROWS[0], ROWS[2]],
        ROWS[:2],
        [ROWS[0]._replace(image=png("green")), *ROWS[1:]],
        [*ROWS[:2], ROWS[2]._replace(image=b"")],
    ],
)
def test_any_change_changes_the_fingerprint(tmp_path, changed):
    assert (
        KnowledgeBase.create(tmp_path / "1", ROWS).fingerprint
        != KnowledgeBase.create(tmp_path / "2", changed).fingerprint
    )


def test_missing_base_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match=r"no knowledge base at .*nowhere: manifest.json is missing; give the folder"):
        KnowledgeBase.open(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["items/00000.parquet", "images/00000.parquet", "lookups/keys.npy"])
def test_damaged_files_are_noticed(tmp_path, name):
    KnowledgeBase.create(tmp_path, ROWS)
    data = (tmp_path / name).read_bytes()
    for flip in (40, len(data) // 2):
        (tmp_path / name).write_bytes(data[:flip] + bytes([data[flip] ^ 0xFF]) + data[flip + 1 :])
        with pytest.raises(UserError, match=f"{name} is damaged or was changed afterwards"):
            KnowledgeBase.open(tmp_path)
    (tmp_path / name).write_bytes(data[:100])
    with pytest.raises(UserError, match=f"{name} has 100 bytes, not {len(data):,}: it is damaged; build or copy"):
        KnowledgeBase.open(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing; build or copy"):
        KnowledgeBase.open(tmp_path)


def test_damage_in_a_large_base_is_noticed_by_whoever_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr("comem_lmms.knowledge.base.SMALL", 0)
    KnowledgeBase.create(tmp_path, ROWS)
    data = bytearray((tmp_path / "items/00000.parquet").read_bytes())
    data[40] ^= 0xFF
    (tmp_path / "items/00000.parquet").write_bytes(data)
    base = KnowledgeBase.open(tmp_path)
    with pytest.raises(UserError, match=r"items/00000.parquet is damaged \(.*\); build or copy the base again"):
        [base.row(i) for i in range(3)]
    with pytest.raises(UserError, match=r"items/00000.parquet is damaged or was changed afterwards"):
        base.verify()


def test_a_range_of_images_is_read_without_those_before_it(tmp_path, monkeypatch):
    """Else reading a large file by ranges would take as many times longer as there are ranges."""
    monkeypatch.setattr("comem_lmms.knowledge.base.SMALL", 0)
    KnowledgeBase.create(tmp_path, [Row(str(i), "", "", png(f"rgb({i}, 0, 0)")) for i in range(200)])
    path = tmp_path / "images/00000.parquet"
    first = pq.ParquetFile(path).metadata.row_group(0)
    column = next(first.column(i) for i in range(3) if first.column(i).path_in_schema == "image.bytes")
    data = bytearray(path.read_bytes())
    data[(column.dictionary_page_offset or column.data_page_offset) + 100] ^= 0xFF
    path.write_bytes(data)
    base = KnowledgeBase.open(tmp_path)
    assert [image.getpixel((0, 0))[0] for image in base.images(100, 195)] == list(range(100, 195))
    with pytest.raises(UserError, match=r"images/00000.parquet is damaged"):
        list(base.images(0, 3))


def test_large_images_do_not_fill_memory(tmp_path, monkeypatch):
    """Reading an item reads a row group, and those that are kept are few however large they are."""
    rng = random.Random(0)
    rows = [Row(str(i), "", "", rng.randbytes(300_000)) for i in range(64)]
    base = KnowledgeBase.create(tmp_path, rows)
    assert base.row(40) == rows[40]
    assert sum(table.nbytes for table in base._images._groups.values()) < 1 << 22
    monkeypatch.setattr(shards, "KEPT_BYTES", 1 << 23)
    assert [base.row(i) for i in range(64)] == rows
    assert sum(table.nbytes for table in base._images._groups.values()) <= 1 << 23
    assert list(base.image_files(3, 50)) == [row.image for row in rows[3:50]]


def test_another_format_is_refused(tmp_path):
    KnowledgeBase.create(tmp_path, ROWS)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(UserError, match="has format 1, this version reads 2; build it again"):
        KnowledgeBase.open(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "samples": 3}))  # training data, say
    with pytest.raises(UserError, match="holds something else than a knowledge base; give the folder of one"):
        KnowledgeBase.open(tmp_path)


def test_an_image_that_serves_many_items_is_stored_once(tmp_path):
    rows = [Row(str(i), "", f"text {i}", png(("red", "blue")[i % 2])) for i in range(6)]
    base = KnowledgeBase.create(tmp_path, [*rows, Row("blind", "", "x", None)])
    assert (base.n_images, base.n_pictured, len(base)) == (2, 6, 7)
    assert [base.rows_of(image) for image in range(2)] == [[0, 2, 4], [1, 3, 5]]
    assert [base.image_of(row) for row in range(7)] == [0, 1, 0, 1, 0, 1, None]
    assert [image.getpixel((0, 0)) for image in base.images()] == [(255, 0, 0), (0, 0, 255)]
    assert [base.row(i) for i in range(6)] == rows
    assert [image.getpixel((0, 0)) for image in base.images(1, 2)] == [(0, 0, 255)]


def test_keys_are_of_the_content(tmp_path):
    first = KnowledgeBase.create(tmp_path / "1", ROWS)
    moved = [ROWS[2], ROWS[1]._replace(id="other", language="de"), ROWS[0]._replace(text="x")]
    second = KnowledgeBase.create(tmp_path / "2", moved)
    assert [first.key(row) == second.key(2 - row) for row in range(3)] == [False, True, True]


def write_in_chunks(folder, rows, sizes, stop=None):
    """A writer that was killed after ``stop`` chunks, its last chunk's files half there."""
    writer, at = Writer(folder, {"source": "test"}), 0
    for number, size in enumerate(sizes):
        for row in rows[at : at + size]:
            writer.add(row)
        at += size
        if number == stop:
            writer._write_tables()
            break
        writer.commit(at, {"read": size}, rejects=[{"line": at}])
    writer.close()  # as the end of its process does


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), stop=st.integers(0, 5))
def test_a_build_that_was_killed_goes_on_where_it_was(tmp_path_factory, sizes, stop):
    folder = tmp_path_factory.mktemp("kb")
    rows = [
        Row(f"id {i}", "t", f"text {i}", png(("red", "blue", "green")[i % 3]), "en", f"line {i}") for i in range(30)
    ]
    whole = KnowledgeBase.create(folder / "whole", rows[: sum(sizes)])
    write_in_chunks(folder / "killed", rows, sizes, stop)
    writer = Writer(folder / "killed", {"source": "test"})
    done = min(stop, len(sizes))
    assert writer.position == (sum(sizes[:done]) if done else None)
    for row in rows[writer.position or 0 : sum(sizes)]:
        writer.add(row)
    writer.commit(sum(sizes), {"read": sum(sizes[done:])})
    assert writer.counts == {"read": sum(sizes)}
    assert writer.finish()["fingerprint"] == whole.fingerprint
    base = KnowledgeBase.open(folder / "killed")
    assert [base.row(i) for i in range(len(base))] == rows[: sum(sizes)]
    assert base.n_images == whole.n_images
    rejects = folder / "killed/rejects.jsonl"
    assert (rejects.read_text().splitlines() if done else []) == [
        json.dumps({"line": sum(sizes[: i + 1])}) for i in range(done)
    ]
    assert {path.name for path in (folder / "killed").iterdir()} == {
        *("items", "images", "lookups", "manifest.json"),
        *(["rejects.jsonl"] if done else []),
    }


def test_an_unfinished_build_is_not_a_base_and_wants_its_own_settings(tmp_path):
    writer = Writer(tmp_path, {"source": "a", "language": "en"})
    writer.add(ROWS[0])
    writer.commit()
    with pytest.raises(UserError, match=r"another process is at work in .*; wait for it, or stop it"):
        Writer(tmp_path, {"source": "a", "language": "en"})
    writer.close()
    with pytest.raises(UserError, match="it is not finished, run the command that began it again"):
        KnowledgeBase.open(tmp_path)
    with pytest.raises(UserError, match="was begun with language='en', not 'de'; give the same options"):
        Writer(tmp_path, {"source": "a", "language": "de"})
    Writer(tmp_path, {"source": "a", "language": "en"}).finish()
    with pytest.raises(UserError, match="holds a finished knowledge base"):
        Writer(tmp_path, {})


def test_what_became_of_a_url_is_remembered(tmp_path):
    writer = Writer(tmp_path, {})
    stored = writer.image(png("red"))
    writer.commit(urls={"http://a": stored, "http://b": "gone"})
    for again in (writer, None):
        again = again or Writer(tmp_path, {})
        assert again.outcome("http://a") == stored == again.image(png("red"))
        assert again.outcome("http://b") == "gone"
        assert again.outcome("http://c") is None
        again.close()


def test_a_manifest_that_lacks_something_is_noticed(tmp_path):
    about = dict(KnowledgeBase.create(tmp_path, ROWS).manifest)
    for name in ("items", "images", "fingerprint"):
        (tmp_path / "manifest.json").write_text(json.dumps({k: v for k, v in about.items() if k != name}))
        with pytest.raises(UserError, match=f"manifest.json has no '{name}': it is damaged or was changed; build or"):
            KnowledgeBase.open(tmp_path)


def test_broken_manifest_is_noticed(tmp_path):
    KnowledgeBase.create(tmp_path, ROWS)
    (tmp_path / "manifest.json").write_text(json.dumps({"items": 3})[:-4])
    with pytest.raises(UserError, match=r"cannot read .*manifest.json"):
        KnowledgeBase.open(tmp_path)


def test_corrupt_image_names_the_item(tmp_path):
    base = KnowledgeBase.create(tmp_path, [ROWS[0]._replace(image=ROWS[0].image[:30])])
    with pytest.raises(UserError, match=r"item 'a' of knowledge base .* has an unreadable image"):
        base[0]


def test_missing_texts_are_empty_and_other_kinds_are_refused(tmp_path):
    base = KnowledgeBase.create(tmp_path, [Row("a", None, None, None)])
    assert KnowledgeBase.open(tmp_path)[0] == base[0] == KnowledgeItem("a", "", "", None)
    with pytest.raises(UserError, match=r"item 1 is made of int, str, str, NoneType; give str"):
        KnowledgeBase.create(tmp_path, [Row(1, "", "", None)])
    with pytest.raises(UserError, match=r"item 'a' is made of str, str, str, str; give str"):
        KnowledgeBase.create(tmp_path, [Row("a", "", "", "a.jpg")])


def test_ids_must_differ(tmp_path):
    with pytest.raises(UserError, match="two items have the id 'a'"):
        KnowledgeBase.create(tmp_path, [ROWS[0], ROWS[0]])
