"""Rows of WIT, of Wikimedia's edition of it and of a user's own files are read as they are; the rest is counted."""

import csv
import gzip
import io
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wit_rows
from hosting import hosting, publish
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comem_lmms.data.http import Client
from comem_lmms.errors import UserError
from comem_lmms.knowledge import sources
from comem_lmms.knowledge.candidates import Candidate, Reject
from comem_lmms.knowledge.sources import tables, wit


def jpeg(colour: str = "red", size: tuple[int, int] = (8, 8), kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def row(**cells: str) -> list[str]:
    plain = {"language": "en", "page_url": "http://p", "image_url": "http://i/1.jpg", "page_title": "T"}
    plain |= {"mime_type": "image/jpeg", "original_height": "30", "original_width": "40"}
    plain |= {"context_page_description": "page", "context_section_description": "section"}
    return [{**plain, **cells}.get(name, "") for name in wit.COLUMNS]


def written(*rows: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return wit.HEADER + b"\n" + text.getvalue().encode()


def read(path, position=None):
    return list(sources.find(str(path)).read(position))


def found(path):
    return [one.found for one in read(path)]


def titles(path):
    return [one.title if isinstance(one, Candidate) else one.kind for one in found(path)]


def test_a_row_of_wit(tmp_path):
    (tmp_path / "wit_v1.train.all-00003-of-00010.tsv").write_bytes(
        written(row(), row(context_section_description="", page_title="B", original_width="x"))
    )
    first, second = found(tmp_path)
    assert first == Candidate(
        *("train.all-00003:2", "T", "section", "en", "http://p http://i/1.jpg", "http://i/1.jpg"),
        *("image/jpeg", 40, 30),
    )
    assert (second.id, second.title, second.text, second.width) == ("train.all-00003:3", "B", "page", None)


# The csv module neither quotes nor keeps a carriage return alone.
TEXTS = st.text(st.sampled_from('ab"\t\n é山') | st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))


@settings(max_examples=60)
@given(st.lists(st.lists(TEXTS, min_size=17, max_size=17), max_size=5))
def test_what_a_csv_writer_wrote_is_read_as_csv_reads_it(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("wit") / "rows.tsv"
    path.write_bytes(written(*rows))
    with path.open(encoding="utf-8", newline="") as lines:
        expected = list(csv.DictReader(lines, delimiter="\t", strict=True))
    assert [
        one.found._replace(place="") if isinstance(one.found, Reject) else one.found._replace(id="")
        for one in read(path)
    ] == [wit.candidate(cells) for cells in expected]


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([b'"', b'""', b"\t", b"\n", b"a", b"\xff", written(row()).split(b"\n")[1]]), max_size=60)
)
def test_nothing_breaks_the_reader_and_it_goes_on_anywhere(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("wit") / "rows.tsv"
    path.write_bytes(b"".join(pieces))
    whole = read(path)
    for i in range(len(whole)):
        assert read(path, whole[i].position) == whole[i + 1 :]


def test_a_broken_quote_costs_its_own_line_alone(tmp_path):
    good = written(row(page_title="good"), row(page_title='"also" good', context_page_description="two\nlines"))
    for broken in (b'en\t"open\n', b'en\t"closed" not\tx\n', b'"\n', b'""""\n', b'\t"' * 17 + b"\n"):
        (tmp_path / "rows.tsv").write_bytes(good + broken + good.split(b"\n", 1)[1])
        kinds = titles(tmp_path / "rows.tsv")
        assert kinds[:2] == kinds[-2:] == ["good", '"also" good']
        assert len(kinds) == 5
        assert kinds[2] in ("broken_quoting", "wrong_columns")


def test_a_broken_quote_is_joined_with_so_many_lines_at_most(tmp_path, monkeypatch):
    lines = [written(row(page_title=str(i))).split(b"\n")[1] for i in range(2000)]
    (tmp_path / "rows.tsv").write_bytes(b'en\t"open\n' + b"\n".join(lines))
    assert titles(tmp_path / "rows.tsv") == ["broken_quoting", *map(str, range(2000))]


def test_lines_too_long_for_memory_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(wit, "MOST_BYTES", 1000)
    good = written(row()).split(b"\n")[1] + b"\n"
    for length in (999, 1000, 1001, 5000, 5999, 6000):
        (tmp_path / "rows.tsv").write_bytes(good + b"x" * length + b"\n" + good)
        assert titles(tmp_path / "rows.tsv") == ["T", "line_too_long" if length >= 1000 else "wrong_columns", "T"]
        assert found(tmp_path / "rows.tsv")[2].id == "rows:3"


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.999])
def test_a_truncated_shard_gives_what_there_is(tmp_path, cut):
    wit_rows.write(tmp_path / "a.tsv.gz", wit_rows.lines(500, "http://i/{}.jpg", 50, broken=0))
    whole = (tmp_path / "a.tsv.gz").read_bytes()
    assert len(read(tmp_path)) == 500
    (tmp_path / "a.tsv.gz").write_bytes(whole[: int(len(whole) * cut)])
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(written(row())))
    ends = read(tmp_path)
    kinds = [one.found.kind for one in ends if isinstance(one.found, Reject)]
    assert kinds == ["file_truncated"]
    assert ends[-1].found.title == "T"
    said = next(i for i, one in enumerate(ends) if isinstance(one.found, Reject))
    for i in (0, said - 1, said, said + 1):  # once, wherever the build was killed
        assert read(tmp_path, ends[i].position) == ends[i + 1 :]
    (tmp_path / "a.tsv.gz").write_bytes(whole[: len(whole) // 2] + b"spoiled" + whole[len(whole) // 2 :])
    assert "file_damaged" in titles(tmp_path)


def test_a_damaged_shard_gives_the_same_wherever_it_is_gone_on_with(tmp_path):
    wit_rows.write(tmp_path / "a.tsv.gz", wit_rows.lines(4000, "http://h/{}.jpg", 100))
    data = bytearray((tmp_path / "a.tsv.gz").read_bytes())
    middle = len(data) * 6 // 10
    data[middle : middle + 20] = b"\xff" * 20
    (tmp_path / "a.tsv.gz").write_bytes(data)
    whole = read(tmp_path)
    assert whole[-1].found.kind == "file_damaged"
    for i in range(0, len(whole), len(whole) // 12):
        assert read(tmp_path, whole[i].position) == whole[i + 1 :]


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "metadata.csv").write_bytes(mark + b"file_name,text\na.jpg,one\n")
    (tmp_path / "rows.jsonl").write_bytes(mark + b'{"image": "a.jpg", "text": "one"}\n')
    for source in (tmp_path, tmp_path / "rows.jsonl"):
        assert [(one.text, one.image) for one in found(source)] == [("one", tmp_path / "a.jpg")]
    (tmp_path / "rows.tsv").write_bytes(mark + written(row()))
    assert titles(tmp_path / "rows.tsv") == ["T"]


def test_long_texts_in_csv_and_what_is_none(tmp_path):
    long = "word " * 40_000
    (tmp_path / "metadata.csv").write_text(f"text,title\n{long},A\nshort,B\n")
    assert titles(tmp_path) == ["A", "B"]
    (tmp_path / "metadata.csv").write_text('text,title\none,A\ntwo,"B\n' + long * 5)
    assert titles(tmp_path) == ["A", f"B\n{long * 5}"]


def test_a_csv_that_cannot_be_read_on_ends_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_BYTES", 1000)
    (tmp_path / "metadata.csv").write_text('text,title\none,A\ntwo,"B\n' + "word\n" * 500)
    whole = read(tmp_path)
    assert [getattr(one.found, "kind", "good") for one in whole] == ["good", "file_damaged"]
    assert [read(tmp_path, one.position) for one in whole] == [whole[1:], []]


def test_the_defects_of_the_generator_are_found_as_they_were_made(tmp_path):
    records = list(wit_rows.lines(2000, "http://i/{}.jpg", 100, seed=3, broken=0.1))
    wit_rows.write(tmp_path / "rows.tsv.gz", records)
    kinds = [one.kind if isinstance(one, Reject) else None for one in found(tmp_path)]
    assert kinds == [wit_rows.DEFECTS.get(record.defect) for record in records]
    assert set(kinds) == {None, *wit_rows.DEFECTS.values()}


def pages(as_lists: bool):
    of = {
        "language": ["en", "de", "fr"],
        "page_url": ["http://en", "http://de", "http://fr"],
        "page_title": ["T", "D", "F"],
        "context_page_description": ["page", "Seite", None],
        "context_section_description": [None, "Abschnitt", None],
    }
    return of if as_lists else [{name: of[name][i] for name in of} for i in range(3)]


def wit_base(path, as_lists: bool):
    rows = [
        {
            "image": {"bytes": jpeg(), "path": None} if i != 1 else None,
            "image_url": f"http://i/{i}.jpg",
            "embedding": [0.0],
            "original_height": 30,
            "original_width": 40,
            "mime_type": "image/jpeg",
            "wit_features": pages(as_lists),
        }
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)


@pytest.mark.parametrize("as_lists", [True, False])
def test_a_row_of_wit_base_is_an_item_for_each_page(tmp_path, as_lists):
    wit_base(tmp_path / "train-0.parquet", as_lists)
    assert titles(tmp_path) == ["T", "D", "no_text", "no_image", "no_image", "no_text", "T", "D", "no_text"]
    first, second = found(tmp_path)[:2]
    assert first == Candidate(
        "train-0:0:0", "T", "page", "en", "http://en http://i/0.jpg", jpeg(), "image/jpeg", 40, 30
    )
    assert (second.id, second.text) == ("train-0:0:1", "Abschnitt")
    whole = read(tmp_path)
    for i in range(len(whole)):
        assert read(tmp_path, whole[i].position) == whole[i + 1 :]


def test_wit_base_from_the_hub(tmp_path, run):
    for shard in range(3):
        wit_base(tmp_path / str(shard), as_lists=True)
    files = {f"train-{i}.parquet": (tmp_path / str(i)).read_bytes() for i in range(3)}
    with hosting() as host:
        environment = publish(host, "wikimedia/wit_base", "a" * 40, files)
        command = (
            "comem-lmms",
            "kb",
            "build",
            "--source",
            "wit_base",
            "--shards",
            "0,2",
            "--out",
            str(tmp_path / "kb"),
        )
        run(*command, COMEM_DATA=str(tmp_path / "data"), **environment)
    manifest = json.loads((tmp_path / "kb/manifest.json").read_text())
    assert (manifest["items"], manifest["images"], manifest["revision"]) == (8, 1, "a" * 40)
    assert "CC BY-SA" in manifest["licence"]
    assert not list((tmp_path / "data").rglob("*.parquet"))  # 300 GB in all


# A build that is killed just before or just after the chunk of that number counts.
KILLED = """
import os, signal, sys
from itertools import count
from pathlib import Path
from comem_lmms.knowledge import Writer, build, sources

number, commit = count(), Writer.commit

def killed(self, *told):
    now = next(number) == int(sys.argv[2])
    if not (now and sys.argv[3] == "before"):
        commit(self, *told)
    if now:
        os.kill(os.getpid(), signal.SIGKILL)

Writer.commit = killed
build(sources.find("wit_base"), Path(sys.argv[1]), chunk=6)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("chunk", range(5))
def test_a_file_of_wit_base_is_downloaded_once_whenever_the_build_is_killed(tmp_path, run, chunk, when):
    """Of 9 rows each, so a chunk of 6 ends within the first file, and the third with the second."""
    wit_base(tmp_path / "0", as_lists=True)
    files = {f"train-{i}.parquet": (tmp_path / "0").read_bytes() for i in range(3)}
    with hosting() as host:
        environment = publish(host, "wikimedia/wit_base", "a" * 40, files) | {"COMEM_DATA": str(tmp_path / "data")}
        command = ("python", "-c", KILLED, str(tmp_path / "kb"))
        assert run(*command, str(chunk), when, check=False, **environment).returncode == -9
        run(*command, "-1", when, **environment)
        resolve = f"/datasets/wikimedia/wit_base/resolve/{'a' * 40}"
        asked = Counter(path for path, _ in host.requests if path.startswith(resolve))
    assert asked == {f"{resolve}/{name}": 2 for name in files}  # HEAD and GET
    assert json.loads((tmp_path / "kb/manifest.json").read_text())["items"] == 12
    assert not list((tmp_path / "data").rglob("*.parquet"))


def user_rows():
    return [
        {"id": "a", "title": "A", "text": "one", "language": "en", "image": "a.jpg"},
        {"text": "two", "image": "http://i/b.jpg"},
        {"id": 3, "text": "three"},
        {"id": "c", "text": ""},
        {"id": "d", "text": 5},
    ]


def test_json_lines(tmp_path):
    lines = [json.dumps(cells) for cells in user_rows()]
    lines += [
        "",
        "{",
        "[]",
        '{"text": "\\ud800"}',
        '{"text": "x", "image": 3}',
        '{"text": "x", "image": {"bytes": "AA=="}}',
    ]
    (tmp_path / "rows.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"text": "\xff"}\n')
    rows = found(tmp_path / "rows.jsonl")
    assert rows[0] == Candidate("a", "A", "one", "en", "rows.jsonl, line 1", tmp_path / "a.jpg")
    assert rows[1] == Candidate("rows:2", "", "two", "", "rows.jsonl, line 2", "http://i/b.jpg")
    assert rows[2] == Candidate("3", "", "three", "", "rows.jsonl, line 3", None)
    assert [one.kind for one in rows if isinstance(one, Reject)] == [
        *("no_text", "wrong_kind", "not_json", "not_json", "wrong_encoding", "wrong_kind", "wrong_encoding")
    ]
    assert rows[-2].image == b"\0"
    whole = read(tmp_path / "rows.jsonl")
    for i in range(len(whole)):
        assert read(tmp_path / "rows.jsonl", whole[i].position) == whole[i + 1 :]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_folder_of_images_as_datasets_has_it(tmp_path, name):
    rows = [{"file_name": "deep/a.jpg", "text": "one, and\nmore", "title": "A"}, {"file_name": "b.png", "text": ""}]
    if name.endswith("csv"):
        with (tmp_path / name).open("w", newline="") as lines:
            writer = csv.DictWriter(lines, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    first, second = found(tmp_path)
    assert (first.title, first.text, first.image) == ("A", "one, and\nmore", tmp_path / "deep/a.jpg")
    assert second.kind == "no_text"


def test_parquet(tmp_path):
    rows = [
        {"text": "one", "image": {"bytes": jpeg(), "path": "a.jpg"}},
        {"text": "two", "image": None},
        {"text": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    pq.write_table(pa.Table.from_pylist([{"text": "zero", "image": "x.jpg"}]), tmp_path / "a.parquet")
    rows = found(tmp_path)
    assert [getattr(one, "image", "") for one in rows] == [tmp_path / "x.jpg", jpeg(), None, ""]
    assert [getattr(one, "id", "") for one in rows] == ["a:0", "b:0", "b:1", ""]


def test_text_in_parquet_that_is_none(tmp_path):
    column = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\4\0\0\0\6\0\0\0\x0a\0\0\0"), pa.py_buffer(b"good\xff\xfealso")
    )
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert [getattr(one, "text", None) or one.kind for one in found(tmp_path)] == ["good", "wrong_encoding", "also"]


def test_damaged_parquet_ends_there(tmp_path):
    rows = [{"text": f"{i} " * 50} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=1000, compression="zstd")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    middle = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0)
    start = middle.dictionary_page_offset or middle.data_page_offset
    data[start : start + 60] = b"\xff" * 60
    (tmp_path / "a.parquet").write_bytes(data)
    kinds = Counter(getattr(one, "kind", "good") for one in found(tmp_path))
    assert kinds == {"good": 1000, "file_damaged": 1}


def test_shards_of_wit_are_downloaded_once_and_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setenv("COMEM_DATA", str(tmp_path))
    with hosting() as host:
        monkeypatch.setattr(wit, "URL", f"{host.url}/{{}}")
        for shard in (0, 2):
            content = gzip.compress(written(row(page_title=f"of {shard}")))
            host.files[f"/wit_v1.train.all-{shard:05}-of-00010.tsv.gz"] = content
            host.faults[f"/wit_v1.train.all-{shard:05}-of-00010.tsv.gz"] = [50]
        client = Client(pause=0.0, sleep=lambda s: None)
        for _ in range(2):
            ids = [(one.found.id, one.found.title) for one in sources.find("wit", "0,2", client).read()]
            assert ids == [("train.all-00000:2", "of 0"), ("train.all-00002:2", "of 2")]
    assert [headers.get("Range") for _, headers in host.requests] == [None, "bytes=50-"] * 2


@pytest.mark.parametrize("shards", ["10", "a", "3-1", "0-10", "", "-1"])
def test_shards_that_are_none(shards):
    with pytest.raises(UserError, match=r"names no shards; give numbers from 0 to 9"):
        sources.find("wit", shards)


def test_shards():
    assert [part.name for part in sources.find("wit", "0-1,9").parts] == [f"train.all-{i:05}" for i in (0, 1, 9)]
    assert len(sources.find("wit").parts) == 10


def test_a_source_that_is_none(tmp_path):
    with pytest.raises(UserError, match="is neither wit nor wit_base"):
        sources.find(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is neither wit nor wit_base"):
        sources.find(str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match="is not a Parquet file"):
        sources.find(str(tmp_path))
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet has no column 'text', but caption; call that of the texts so"):
        sources.find(str(tmp_path))
    (tmp_path / "b.jsonl").write_text('{"text": "else it would be passed over"}')
    with pytest.raises(UserError, match=r"has files of several kinds \(.jsonl, .parquet\); give a folder of one kind"):
        sources.find(str(tmp_path))
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(UserError, match="--shards and --revision are for wit"):
        sources.find(str(tmp_path), "0")
