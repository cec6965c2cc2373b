"""A knowledge base is made of what a source has and hosts give, once, whatever fails and whenever it is killed."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wit_rows
from hosting import Host, hosting
from PIL import Image

from comem_lmms.data.http import Client
from comem_lmms.errors import UserError
from comem_lmms.knowledge import Filters, KnowledgeBase, Options, build, building, pictures, sources
from comem_lmms.knowledge.stats import stats

ROWS, IMAGES, CHUNK = 2500, 300, 150
FAILING = {  # of the images of the host below, and the kinds of rejects that they make
    "gone": "image_gone",
    "refused": "image_refused",
    "busy": "image_unreachable",
    "html": "not_an_image",
    "torn": "image_damaged",
}
PROGRAM = """
import sys, time
from pathlib import Path
from comem_lmms.data.http import Client
from comem_lmms.knowledge import build, sources
client = Client("me@example.org", pause=0.0, tries=3, timeout=1.0, sleep=lambda s: time.sleep(s / 100))
build(sources.find(sys.argv[1]), Path(sys.argv[2]), client=client, chunk=int(sys.argv[3]))
"""


def image(number: int, kind: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, tuple(number // n % 8 * 32 for n in (1, 8, 64))).save(buffer, kind)
    return buffer.getvalue()


def spoil(host: Host) -> dict[int, str]:
    """Gives the host images and faults; returns which images never come, and why."""
    rng, never = random.Random(5), {}
    host.faults.clear()
    for number in range(IMAGES):
        path, what = f"/{number}.jpg", rng.random()
        host.files[path] = image(number, "PNG" if what > 0.95 else "JPEG")
        if what < 0.1:
            never[number] = rng.choice(list(FAILING))
            if never[number] == "gone":
                del host.files[path]
            elif never[number] == "html":
                host.files[path] = b"<html>404</html>"
            elif never[number] == "torn":
                host.files[path] = image(number)[:-250]
            else:
                host.faults[path] = [(403, {})] * 3 if never[number] == "refused" else [(503, {})] * 1000
        elif what < 0.15:
            host.faults[path] = [(429, {"Retry-After": "1"})]
        elif what < 0.2:
            host.faults[path] = [100, (500, {})]
        elif what < 0.21:
            host.faults[path] = [1.5]
    return never


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A host, a source in two shards, what is true of it, and the base that is made without any interruption."""
    folder = tmp_path_factory.mktemp("world")
    with hosting() as host:
        never = spoil(host)
        records = list(wit_rows.lines(ROWS, f"{host.url}/{{}}.jpg", IMAGES, seed=1, broken=0.05))
        (folder / "wit").mkdir()
        wit_rows.write(folder / "wit/a.tsv.gz", records[: ROWS // 2])
        wit_rows.write(folder / "wit/b.tsv.gz", records[ROWS // 2 :])
        done = build_in_process(folder / "wit", folder / "kb")
        assert done.wait(timeout=300) == 0
        yield host, folder, never, records, Counter(path for path, _ in host.requests)


def build_in_process(source, folder, chunk=CHUNK):
    command = [sys.executable, "-c", PROGRAM, str(source), str(folder), str(chunk)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def test_everything_that_can_be_had_is_there_and_the_rest_is_in_the_rejects(world):
    _host, folder, never, records, _ = world
    base = KnowledgeBase.open(folder / "kb")
    number = [int(record.url.rpartition("/")[2].removesuffix(".jpg")) for record in records]
    good = [i for i, record in enumerate(records) if not record.defect and number[i] not in never]
    assert [int(base.row(row).title.rpartition(" ")[2]) for row in range(len(base))] == good
    for row, i in enumerate(good):
        assert base.row(row).image == (
            image(number[i], "PNG") if base.row(row).image[:4] == b"\x89PNG" else image(number[i])
        )
    assert base.n_images == len({number[i] for i in good})
    kinds = [
        wit_rows.DEFECTS[r.defect] if r.defect else FAILING.get(never.get(number[i], "")) for i, r in enumerate(records)
    ]
    rejects = [json.loads(line) for line in (folder / "kb/rejects.jsonl").read_text().splitlines()]
    assert [reject["kind"] for reject in rejects] == [kind for kind in kinds if kind]
    assert base.manifest["rejects"] == dict(sorted(Counter(filter(None, kinds)).items()))
    assert base.manifest["rows"] == ROWS == len(base) + len(rejects)
    assert base.manifest["misnamed_images"] > 0
    assert not (folder / "kb/spool").exists()
    assert "CC BY-SA 3.0" in base.manifest["licence"]


def test_each_url_is_asked_once_but_for_what_passes(world):
    host, _folder, never, _records, asked = world
    faults = {path: 3 if never.get(int(path[1:-4])) == "busy" else 1 for path in asked}
    spoil(host)
    for path in faults:
        if not never.get(int(path[1:-4])):
            faults[path] += len(host.faults[path])
    assert asked == faults


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_any_moment_changes_nothing(world, tmp_path, seed):
    host, folder, never, _, asked = world
    rng, kills = random.Random(seed), 0
    spoil(host)
    host.requests.clear()
    stops = sorted(rng.sample(range(20, sum(asked.values()) - 50), 3))
    while True:
        process = build_in_process(folder / "wit", tmp_path / "kb", chunk=rng.choice([50, 150, 5000]))
        while process.poll() is None and (not stops or len(host.requests) < stops[0]):
            time.sleep(0.002)
        if process.poll() is not None:
            break
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stops, kills = stops[1:], kills + 1
    assert (process.returncode, kills) == (0, 3)
    whole, killed = KnowledgeBase.open(folder / "kb"), KnowledgeBase.open(tmp_path / "kb")
    assert killed.fingerprint == whole.fingerprint
    assert all(killed.row(row) == whole.row(row) for row in range(len(whole)))
    assert (tmp_path / "kb/rejects.jsonl").read_text() == (folder / "kb/rejects.jsonl").read_text()
    changing = {"files"}
    assert {k: v for k, v in killed.manifest.items() if k not in changing} == {
        k: v for k, v in whole.manifest.items() if k not in changing
    }
    busy = {f"/{number}.jpg" for number, why in never.items() if why == "busy"}
    more = Counter(path for path, _ in host.requests) - asked
    # What was on its way, in two connections; and what had failed in a way that passes is asked again.
    assert sum(n for path, n in more.items() if path not in busy) <= 2 * kills


def user_base(tmp_path, rows, **options):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(sources.find(str(tmp_path / "rows.jsonl")), tmp_path / "kb", Options(**options))
    return KnowledgeBase.open(tmp_path / "kb")


def test_filters_count_what_they_leave_out(tmp_path):
    for name, kind, size in (("a.jpg", "JPEG", (40, 30)), ("b.jpg", "PNG", (40, 30)), ("c.jpg", "JPEG", (40, 20))):
        (tmp_path / name).write_bytes(image(1, kind, size))
    rows = [{"text": "a text", "language": "en", "image": name} for name in ("a.jpg", "b.jpg", "c.jpg", None)]
    rows += [
        {"text": "a text", "language": "de"},
        {"text": "a", "language": "en"},
        {"text": "a" * 99, "language": "en"},
    ]
    filters = Filters(("en",), ("jpeg",), min_size=25, min_text=2, max_text=50)
    base = user_base(tmp_path, rows, filters=filters)
    assert [base.id(row) for row in range(len(base))] == ["rows:1", "rows:4"]
    expected = {"image_type": 1, "language": 1, "max_text": 1, "min_size": 1, "min_text": 1}
    assert base.manifest["left_out"] == expected
    assert base.manifest["rejects"] == {}
    with pytest.raises(UserError, match="--image-type 'jpg' is not known; give of bmp"):
        Filters(image_type=("jpg",))
    with pytest.raises(UserError, match="--min-size -1 must be at least 0"):
        Filters(min_size=-1)


def test_filters_go_by_what_the_source_declares_and_spare_requests(tmp_path):
    with hosting() as host:
        host.files = {f"/{i}.jpg": image(i) for i in range(20)}  # 24 x 16, whatever the source says
        wit_rows.write(tmp_path / "a.tsv", wit_rows.lines(60, f"{host.url}/{{}}.jpg", 20, broken=0))
        options = Options(Filters(("en",), ("jpeg",), min_size=1000))
        manifest = build(sources.find(str(tmp_path / "a.tsv")), tmp_path / "kb", options, Client(pause=0.0))
    assert manifest["items"] + sum(manifest["left_out"].values()) == 60
    assert manifest["items"] > 0
    assert len(host.requests) == manifest["images"] < 20


def test_rows_that_are_wrong_are_left_out(tmp_path):
    (tmp_path / "lie.jpg").write_bytes(b"<html>")
    rows = [{"id": "a", "text": "one"}, {"id": "a", "text": "two"}, {"text": "x", "image": "lie.jpg"}]
    rows += [
        {"text": "x", "image": "nowhere.jpg"},
        {"text": "x", "image": "ftp://h/a.jpg"},
        {"id": "b", "text": "three"},
    ]
    base = user_base(tmp_path, rows)
    assert [base.id(row) for row in range(len(base))] == ["a", "b"]
    assert base.manifest["rejects"] == {
        **{"image_bad_url": 1, "image_missing": 1, "not_an_image": 1, "repeated_id": 1},
    }


def test_repeated_ids_are_found_across_chunks_and_interruptions(tmp_path):
    rows = [{"id": str(i % 7), "text": f"text {i}"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = build(sources.find(str(tmp_path / "rows.jsonl")), tmp_path / "kb", chunk=3)
    assert (manifest["items"], manifest["rejects"]) == (7, {"repeated_id": 23})


def test_an_item_that_is_left_out_for_its_id_leaves_no_image(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(image(number))
    rows = [{"id": id_, "text": "t", "image": f"{number}.jpg"} for number, id_ in enumerate("aab")]
    base = user_base(tmp_path, rows)
    assert (len(base), base.n_images, base.manifest["rejects"]) == (2, 2, {"repeated_id": 1})
    assert [base.rows_of(number) for number in range(2)] == [[0], [1]]


def test_an_item_that_is_left_out_for_its_id_asks_for_no_image(tmp_path):
    with hosting() as host:
        host.files |= {f"/{number}.jpg": image(number) for number in range(4)}
        rows = [{"id": id_, "text": "t", "image": f"{host.url}/{number}.jpg"} for number, id_ in enumerate("aaba")]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        build(sources.find(str(tmp_path / "rows.jsonl")), tmp_path / "kb", client=Client(pause=0.0), chunk=3)
        assert sorted(path for path, _ in host.requests) == ["/0.jpg", "/2.jpg"]


def test_names_that_no_file_can_have_and_files_that_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_BYTES", 2000)
    (tmp_path / "large.bmp").write_bytes(image(1, "BMP", (100, 100)))
    rows = [{"text": "t", "image": name} for name in ("a\0b.jpg", "large.bmp", "x" * 300, ".", "/dev/zero")]
    base = user_base(tmp_path, rows)
    assert base.manifest["rejects"] == {"image_missing": 3, "image_too_large": 2}


def test_texts_alone(tmp_path):
    wit_rows.write(tmp_path / "a.tsv", wit_rows.lines(50, "http://nowhere.invalid/{}.jpg", 20, broken=0))
    manifest = build(sources.find(str(tmp_path / "a.tsv")), tmp_path / "kb", Options(images=False))
    assert (manifest["items"], manifest["images"]) == (50, 0)


def test_large_images_are_written_before_they_fill_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "MOST_BYTES", 3000)
    rows = [{"text": f"text {i}", "image": {"bytes": image(i, "BMP"), "path": None}} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    build(sources.find(str(tmp_path / "rows.parquet")), tmp_path / "kb")
    base = KnowledgeBase.open(tmp_path / "kb")
    assert [base.row(i).text for i in range(20)] == [f"text {i}" for i in range(20)]
    assert len(list((tmp_path / "kb/images").iterdir())) > 5
    for i in range(20):
        (tmp_path / f"{i}.bmp").write_bytes(image(i, "BMP"))
    rows = [{"file_name": f"{i}.bmp", "text": f"text {i}"} for i in range(20)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(sources.find(str(tmp_path / "metadata.jsonl")), tmp_path / "kb2")
    assert len(list((tmp_path / "kb2/images").iterdir())) > 5
    assert [KnowledgeBase.open(tmp_path / "kb2").row(i).image for i in range(20)] == [
        base.row(i).image for i in range(20)
    ]


def test_other_options_or_another_file_do_not_go_on_with_a_build(tmp_path):
    rows = [json.dumps({"text": f"text {i}"}) for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    source = sources.find(str(tmp_path / "rows.jsonl"))

    def killed(position):
        for read in source.reader(tmp_path / "rows.jsonl", "rows", position):
            if read.position[0] == 15:
                raise KeyboardInterrupt
            yield read

    with pytest.raises(KeyboardInterrupt):
        build(replace(source, reader=lambda file, name, place: killed(place)), tmp_path / "kb", chunk=5)
    with pytest.raises(UserError, match="was begun with min_text=None, not 3; give the same options"):
        build(source, tmp_path / "kb", Options(Filters(min_text=3)))
    stat = (tmp_path / "rows.jsonl").stat()
    (tmp_path / "rows.jsonl").write_text("\n".join(rows).replace("text 3", "TEXT 3"))  # as many bytes
    os.utime(tmp_path / "rows.jsonl", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(UserError, match="was begun with files="):
        build(sources.find(str(tmp_path / "rows.jsonl")), tmp_path / "kb")
    made = build(source, tmp_path / "kb")
    assert made["items"] == 20
    assert build(source, tmp_path / "kb") == json.loads(json.dumps(made))
    with pytest.raises(UserError, match="holds a finished knowledge base with min_text=None, not 3; remove it"):
        build(source, tmp_path / "kb", Options(Filters(min_text=3)))


def test_the_first_rows_of_each_file_wherever_it_is_interrupted(tmp_path):
    for name, rows in (("a", 7), ("b", 2), ("c", 5)):
        lines = [json.dumps({"id": f"{name}{i}", "text": f"text {i}"}) for i in range(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    source = sources.find(str(tmp_path), rows=3)
    whole = list(source.read())
    ids = [one.found.id for one in whole]
    assert ids == ["a0", "a1", "a2", "b0", "b1", "c0", "c1", "c2"]
    for i, one in enumerate(whole):
        assert [later.found.id for later in source.read(one.position)] == ids[i + 1 :]
    assert build(source, tmp_path / "kb", chunk=2)["options"]["rows"] == 3
    with pytest.raises(UserError, match="with rows=3, not None"):
        build(sources.find(str(tmp_path)), tmp_path / "kb")
    with pytest.raises(UserError, match="--rows 0 must be at least 1"):
        sources.find(str(tmp_path), rows=0)


def test_without_images_filters_go_by_what_the_source_tells_of_them(world, tmp_path):
    _, folder, *_ = world
    asked = Filters(image_type=("png",))
    made = build(sources.find(str(folder / "wit")), tmp_path / "kb", Options(asked, images=False))
    assert made["images"] == 0
    assert made["left_out"]["image_type"] > 0


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "one"}))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"holds no knowledge base, but rows.jsonl; name a new folder"):
        build(sources.find(str(tmp_path / "rows.jsonl")), tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_the_command(tmp_path, run):
    (tmp_path / "a.png").write_bytes(image(1, "PNG"))
    rows = [{"id": str(i), "title": "T", "text": f"text {i}", "language": "en", "image": "a.png"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(map(json.dumps, [*rows, {"text": ""}, {"text": "x", "language": "de"}]))
    )
    command = ("comem-lmms", "kb", "build", "--source", str(tmp_path / "rows.jsonl"), "--out", "kb", "--language", "en")
    made = run(*command).stdout
    assert "kb: 3 items and 1 images of 5 rows; filters left out 1, rejects.jsonl has 1" in made
    assert run(*command).stdout == made  # it is there
    none = run(*command[:-3], "kb0", "--language", "xx", check=False)
    assert none.returncode == 1
    assert "comem-lmms: no row became an item; see rejects.jsonl and the filters\n" in none.stdout
    told = run("comem-lmms", "kb", "stats", "kb", "--verify").stdout
    for line in (
        *("items                3, 3 with an image", "languages            1: en 3", "types of images      png 1"),
        *(
            "left out by filters  language 1",
            "index                none",
            "rejects              no_text 1",
            "shorter side, pixels 16 to 16, median 16",
        ),
        *(
            "characters of a text 6 to 6, median 6",
            "files                all as they were written: items, images, lookups",
            "fingerprint",
        ),
    ):
        assert line in told
    for more, word in (
        (("--source", "wit", "--out", "x"), "give --contact MAIL"),
        (("--source", "nowhere", "--out", "x"), "is neither wit nor wit_base"),
        (("--source", "wit", "--contact", "a@b.c", "--shards", "11", "--out", "x"), "names no shards"),
        (("--source", "rows.jsonl", "--out", "x", "--image-width", "512"), "give 500"),
        (("--source", "rows.jsonl", "--out", "kb"), "holds a finished knowledge base"),
    ):
        done = run("comem-lmms", "kb", "build", *more, check=False)
        assert (done.returncode, done.stdout.count("\n")) == (2, 1)
        assert word in done.stdout


def test_ctrl_c_says_how_to_go_on(tmp_path):
    with hosting() as host:
        host.files = {f"/{i}.jpg": image(i) for i in range(20)}
        host.faults = {path: [] for path in host.files} | {"/7.jpg": [60.0]}
        rows = [{"text": f"text {i}", "image": f"{host.url}/{i}.jpg"} for i in range(20)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        command = [sys.executable, "-m", "comem_lmms.cli", "kb", "build", "--source", "rows.jsonl", "--out", "kb"]
        process = subprocess.Popen([*command, "--rate", "1000"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while len([path for path in tmp_path.glob("kb/spool/*") if "." not in path.name]) < 19:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert process.returncode == 130
        assert told.splitlines()[-1].endswith("interrupted; run the same command again to go on, what is built is kept")
        assert "Traceback" not in told
        host.faults["/7.jpg"] = []
        subprocess.run([*command, "--rate", "1000"], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    assert len(KnowledgeBase.open(tmp_path / "kb")) == 20
    assert Counter(path for path, _ in host.requests) == {f"/{i}.jpg": 1 + (i == 7) for i in range(20)}


def test_stats_of_a_base_that_was_not_built(tmp_path, knowledge):
    told = stats(knowledge)
    assert told["items"] == "1,024, 1,024 with an image"
    assert told["types of images"] == "bmp 1,024"


MEMORY = """
import resource, sys
from pathlib import Path
from comem_lmms.knowledge import Options, build, sources
build(sources.find(sys.argv[1]), Path(sys.argv[2]), Options(images=False), chunk=500)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks = []
    for n in (2_000, 20_000):
        wit_rows.write(tmp_path / f"{n}.tsv.gz", wit_rows.lines(n, "http://i/{}.jpg", 100))
        command = [sys.executable, "-c", MEMORY, str(tmp_path / f"{n}.tsv.gz"), str(tmp_path / str(n))]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "MALLOC_ARENA_MAX": "1"}
        )
        peaks.append(int(done.stdout) * 1024)
    # The rows that are more have 20 MB of text; what may grow are 100 bytes of lookups each.
    assert peaks[1] - peaks[0] < 12e6
