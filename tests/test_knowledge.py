"""A knowledge base keeps what it is given, and says what is wrong with it in one line."""

import io
import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.knowledge.base import Row
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
    assert base.ids == ["a", "b", "c"]
    assert base.row_of["b"] == 1
    assert base[0].image.getpixel((0, 0)) == (255, 0, 0)
    assert base[2].image is None
    assert base.manifest["source"] == "test"


def test_fingerprint_is_of_the_content_not_of_the_file(tmp_path):
    first = KnowledgeBase.create(tmp_path / "1", ROWS)
    table = pq.read_table(tmp_path / "1/items.parquet")
    pq.write_table(table, tmp_path / "1/items.parquet", compression="snappy")
    assert KnowledgeBase.open(tmp_path / "1").fingerprint == first.fingerprint


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
    with pytest.raises(UserError, match=r"no knowledge base at .*nowhere: manifest.json is missing; give knowledge="):
        KnowledgeBase.open(tmp_path / "nowhere")


def test_damaged_items_are_noticed(tmp_path):
    KnowledgeBase.create(tmp_path, ROWS)
    data = bytearray((tmp_path / "items.parquet").read_bytes())
    for flip in (40, len(data) // 2):
        broken = bytes(data[:flip]) + bytes([data[flip] ^ 0xFF]) + bytes(data[flip + 1 :])
        (tmp_path / "items.parquet").write_bytes(broken)
        with pytest.raises(UserError, match=r"damaged|fingerprint"):
            KnowledgeBase.open(tmp_path)
    (tmp_path / "items.parquet").write_bytes(data[:100])
    with pytest.raises(UserError, match="damaged"):
        KnowledgeBase.open(tmp_path)


def test_items_changed_behind_the_manifest_are_noticed(tmp_path):
    KnowledgeBase.create(tmp_path / "other", ROWS[:2])
    KnowledgeBase.create(tmp_path, ROWS)
    (tmp_path / "other/items.parquet").replace(tmp_path / "items.parquet")
    with pytest.raises(UserError, match="changed afterwards"):
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
