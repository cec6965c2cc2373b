"""A bank gives back what the encoder made, whatever is killed, cut off or changed on the way."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from helpers import answers, evaluate, usages
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.knowledge import KnowledgeBase, Row
from comem_lmms.memory import BankInfo, MemoryBank, ProcessMemories, _checksums, fill, prefix
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.comem import CoMEM
from comem_lmms.models.loading import Parts
from comem_lmms.models.memorize import memorize
from comem_lmms.report import retrieved_ids

KEYS = [f"{i:064x}" for i in range(5)]
INFO = BankInfo({"memory_encoder": "e" * 64, "dtype": "float32"}, "some/vlm", "v" * 64, 8, 16, "float32")


@pytest.fixture(scope="module")
def small(knowledge, tmp_path_factory):
    """Forty items of MicroSeek's knowledge base."""
    return KnowledgeBase.create(tmp_path_factory.mktemp("kb"), [knowledge.row(i) for i in range(40)])


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A bank of them, made in one go."""
    return memorize(str(tmp_path_factory.mktemp("bank")), arguments(small), shard_size=8)


def arguments(knowledge, **more):
    return MemoryArguments(knowledge=str(knowledge.folder), batch_size=4, device="cpu", **more)


def content(bank):
    return {key.hex(): bank[key.hex()].view(torch.uint8).numpy().tobytes() for key in bank._places}


def rows(n, dtype="float32", seed=0):
    return torch.randn(n, 8, 16, generator=torch.Generator().manual_seed(seed)).to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_added_is_what_is_read(tmp_path, dtype):
    made = rows(5, dtype)
    MemoryBank.create(tmp_path, BankInfo(**{**vars(INFO), "dtype": dtype})).add(list("abcde"), KEYS, made)
    bank = MemoryBank.open(tmp_path)
    assert len(bank) == 5
    assert torch.equal(prefix(bank, KEYS[::-1]), made.flip(0).flatten(0, 1))
    assert f"{5:064x}" not in bank


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=16, max_size=16))
@example([0.0] * 15 + [1e-45])
@example([0.0] * 15 + [1e-37])
@settings(max_examples=25, deadline=None)
def test_int8_is_within_half_a_step_of_each_vector(tmp_path_factory, values):
    made = torch.tensor(values).repeat(1, 8, 1)
    bank = MemoryBank.create(tmp_path_factory.mktemp("int8"), BankInfo(**{**vars(INFO), "dtype": "int8"}))
    bank.add(["a"], KEYS[:1], made)
    step = made.abs().max() / 127
    smallest = torch.finfo(torch.float32).tiny
    assert (bank[KEYS[0]] - made[0]).abs().max() <= max(step, smallest) * 0.501


def test_memories_are_those_of_the_encoder(small, whole, encoder):
    assert len(whole) == 40
    made = encoder.encode([small[row] for row in range(40)])
    kept = torch.stack([whole[small.key(row)] for row in range(40)])
    torch.testing.assert_close(kept, made, atol=1e-4, rtol=0)


def test_a_memory_goes_with_the_content_of_its_item(small, whole, tmp_path):
    """Another id, another base: the same memory. Another text: none."""
    item = small.row(3)
    moved = KnowledgeBase.create(tmp_path / "a", [Row("new id", *item[1:]), item._replace(text="other")])
    assert moved.key(0) == small.key(3)
    assert moved.key(0) in whole
    assert moved.key(1) not in whole


def test_items_without_image_or_text(tmp_path, small, encoder):
    odd = [Row("1", "only a title", "", None), Row("2", "", "", small.row(0).image), Row("3", "", "", None)]
    knowledge = KnowledgeBase.create(tmp_path, odd)
    memories = ProcessMemories()
    fill(memories, knowledge, [0, 1, 2], encoder, batch_size=3)
    alone = torch.cat([encoder.encode([knowledge[row]]) for row in range(3)])
    torch.testing.assert_close(prefix(memories, map(knowledge.key, range(3))), alone.flatten(0, 1), atol=1e-4, rtol=0)


def test_nothing_is_encoded_twice(tmp_path, small, encoder, monkeypatch):
    bank = memorize(str(tmp_path), arguments(small), ids=[small.id(row) for row in range(10)], shard_size=4)
    assert len(bank) == 10
    asked = []
    monkeypatch.setattr("comem_lmms.encoder.MemoryEncoder.encode", lambda self, items: asked.extend(items))
    assert len(memorize(str(tmp_path), arguments(small), ids=[small.id(row) for row in range(10)], shard_size=4)) == 10
    assert not asked


def test_answers_from_a_bank_without_the_encoder(tmp_path):
    """The bank is filled by one run; the next has no encoder's weights, and cannot load any."""
    weights = tmp_path / "encoder"
    shutil.copytree(micro.resolve("micro", "memory_encoder"), weights)
    given = {"limit": 24, "batch_size": 8}
    on_the_spot = evaluate("comem", model_args=f"memory_encoder={weights}", **given)
    bank = f"memory_bank={tmp_path / 'bank'}"
    filled = evaluate("comem", model_args=f"{bank},memory_encoder={weights}", **given)
    shutil.rmtree(weights)
    read = evaluate("comem", model_args=bank, **given)
    assert answers(on_the_spot) == answers(filled) == answers(read)
    assert len(set(answers(read))) > 5
    assert usages(read)[0]["fingerprints"] == usages(filled)[0]["fingerprints"]
    assert usages(read)[0]["memory_vectors"] == 24
    stored = sum(file.stat().st_size for file in (tmp_path / "bank").glob("*.safetensors"))
    assert usages(read)[0]["bank_bytes"] == usages(filled)[0]["bank_bytes"] == stored
    assert read["throughput"]["avg_bank_bytes"] == stored
    with pytest.raises(
        UserError,
        match=r"bank lacks \d+ of the \d+ items of knowledge base .*know.* first 'realm-\d+' \(a bank goes by",
    ):
        evaluate("comem", model_args=bank, limit=100, batch_size=8)


def test_memories_for_a_run_only(tmp_path, run):
    """Only what a run was given is encoded, and it is enough for the next run on the same questions."""
    asked = ("--tasks", "microseek", "--limit", "3")
    run("lmms-eval", "--model", "vanilla_rag", *asked, "--log_samples", "--output_path", "out")
    retrieved = retrieved_ids(tmp_path / "out")
    assert 3 <= len(retrieved) <= 9
    done = run("comem-lmms", "memorize", "bank", "--for", "out", "--batch_size", "4", "--store", "int8")
    assert re.search(rf"bank: {len(retrieved)} memories of 8 vectors as int8, 0\.0 MB \(\d+ s\)", done.stdout)
    run("lmms-eval", "--model", "comem", "--model_args", "memory_bank=bank", *asked, "--output_path", "out")
    assert len([*(tmp_path / "out").rglob("*_results.json")]) == 2


def test_another_encoder_is_refused(tmp_path, small, whole):
    encoder = tmp_path / "encoder"
    shutil.copytree(micro.resolve("micro", "memory_encoder"), encoder)
    tensors = load_file(encoder / "resampler.safetensors")
    save_file({name: t + 1 for name, t in tensors.items()}, encoder / "resampler.safetensors")
    given = {"memory_bank": str(whole.folder), "knowledge": micro.resolve("micro", "knowledge")}
    with pytest.raises(UserError, match=r"made by another encoder \(memory_encoder \w{12} instead of \w{12}\); give"):
        CoMEM(**given, memory_encoder=str(encoder))
    with pytest.raises(UserError, match=r"made by another encoder \(dtype float32 instead of bfloat16\)"):
        CoMEM(**given, memory_encoder="micro", dtype="bfloat16")
    with pytest.raises(UserError, match=r"made by another encoder \(preprocessing \w{12} instead of \w{12}\)"):
        CoMEM(**given, memory_encoder="micro", max_pixels=56 * 56, min_pixels=56 * 56)
    with pytest.raises(UserError, match="stores float32, not int8; give another folder"):
        memorize(str(whole.folder), arguments(small), dtype="int8")


def test_another_vlm_is_refused(tmp_path, whole):
    vlm = tmp_path / "vlm"
    shutil.copytree(micro.resolve("micro", "vlm"), vlm)
    tensors = load_file(vlm / "model.safetensors")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file({**tensors, name: tensors[name] + 1}, vlm / "model.safetensors", metadata={"format": "pt"})
    parts = Parts(MemoryArguments(pretrained=str(vlm), memory_bank=str(whole.folder)), "cpu")
    with pytest.raises(UserError, match=r"was made for 'micro' \(embeddings \w{12}\), another checkpoint than"):
        _ = parts.reader


def test_no_bank(tmp_path):
    with pytest.raises(UserError, match=r"no memory bank at .*: bank.json is missing; `comem-lmms memorize"):
        CoMEM(memory_bank=str(tmp_path / "none"))
    (tmp_path / "bank.json").write_text("{}")
    with pytest.raises(UserError, match="is not the manifest of a memory bank"):
        MemoryBank.open(tmp_path)
    for name, value in {"encoder": "x", "n_vectors": "8", "dtype": "int3"}.items():
        (tmp_path / "bank.json").write_text(json.dumps({"bank": {**vars(INFO), name: value}}))
        with pytest.raises(UserError, match=rf"is not the manifest of a memory bank \({name} is '{value}'\); memorize"):
            MemoryBank.open(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpeg").write_text("")
    with pytest.raises(UserError, match="is not empty and no memory bank"):
        MemoryBank.create(tmp_path / "photos", INFO)
    with pytest.raises(UserError, match="cannot be stored as 'int4'; choose one of float32"):
        MemoryBank.create(tmp_path / "new", BankInfo(**{**vars(INFO), "dtype": "int4"}))


def test_unknown_items_are_not_memorised(tmp_path, small):
    with pytest.raises(UserError, match=r"has no item 'x' \(nor 1 others that are asked for\)"):
        memorize(str(tmp_path), arguments(small), ids=["x", "y", small.id(0)])


def test_an_item_that_no_processor_takes_is_named(tmp_path, knowledge):
    image = io.BytesIO()
    Image.new("RGB", (2000, 4)).save(image, "PNG")
    rows = [knowledge.row(0), knowledge.row(1)._replace(image=image.getvalue())]
    base = KnowledgeBase.create(tmp_path / "kb", rows)
    with pytest.raises(UserError, match=rf"item '{rows[1].id}' cannot be encoded \(.*aspect ratio"):
        memorize(str(tmp_path / "bank"), arguments(base))


def test_what_is_not_finite_is_not_kept(tmp_path, small, encoder, monkeypatch):
    bank = MemoryBank.create(tmp_path / "half", BankInfo(**{**vars(INFO), "dtype": "float16"}))
    with pytest.raises(UserError, match=r"the memory of item 'b' does not fit into float16; use bfloat16"):
        bank.add(["a", "b"], KEYS[:2], torch.stack([torch.ones(8, 16), torch.full((8, 16), 1e6)]))
    assert len(MemoryBank.open(bank.folder)) == 0
    original = encoder.encode
    monkeypatch.setattr(
        encoder, "encode", lambda items: original(items) / torch.tensor(float(items[0].id != "realm-0009"))
    )
    kept = ProcessMemories()
    with pytest.raises(
        UserError, match=r"the memory of item 'realm-0009' is not finite in torch.float32; the encoder is damaged"
    ):
        fill(kept, small, list(range(16)), encoder, batch_size=1, shard_size=4)
    assert len(kept) == 8  # the shards before


def test_a_bank_of_others_that_holds_no_numbers_is_refused(tmp_path):
    """With checksums that are right."""
    bank = MemoryBank.create(tmp_path, INFO)
    bank.add(list("abcde"), KEYS, rows(5))
    (shard,) = tmp_path.glob("*.safetensors")
    tensors = load_file(shard)
    tensors["memories"][2, 3, 4] = torch.nan
    tensors["checksums"] = torch.tensor(_checksums({"memories": tensors["memories"]}))
    save_file(tensors, shard)
    bank = MemoryBank.open(tmp_path)
    assert torch.equal(bank[KEYS[0]], rows(5)[0])
    with pytest.raises(UserError, match=rf"{shard.name} holds memories that are not finite; delete it and memorize"):
        _ = bank[KEYS[2]]


def test_damage_is_noticed_and_repaired(tmp_path, small, whole, caplog):
    folder = tmp_path / "bank"
    shutil.copytree(whole.folder, folder)
    cut, flipped, *_ = sorted(folder.glob("*.safetensors"))
    cut.write_bytes(cut.read_bytes()[:-100])
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    bank = MemoryBank.open(folder)
    with pytest.raises(UserError, match=r"is damaged \(a checksum differs\); delete it and memorize again"):
        content(bank)
    assert f"{cut.name} is damaged" in caplog.text
    assert len(MemoryBank.open(folder)) == 32
    flipped.unlink()
    assert content(memorize(str(folder), arguments(small), shard_size=8)) == content(whole)


def test_readers_see_what_a_writer_adds(tmp_path):
    writer = MemoryBank.create(tmp_path, INFO)
    readers = [MemoryBank.open(tmp_path) for _ in range(2)]
    other_writer = MemoryBank.open(tmp_path)
    writer.add(["a", "b"], KEYS[:2], rows(2))
    other_writer.add(["b", "c"], KEYS[1:3], rows(3)[1:])
    for bank in (*readers, writer, other_writer):
        bank.refresh()
        assert torch.equal(prefix(bank, KEYS[:3]), torch.cat([rows(2)[0], *rows(3)[1:]]))


KILLED = """
import os, random, signal, sys, threading, time
import torch
from tqdm import tqdm
torch.set_num_threads(1)
tqdm.set_lock(threading.RLock())  # its own is shared with forked children, and a killed one may hold it for ever
from comem_lmms.models.arguments import MemoryArguments
from comem_lmms.models.memorize import memorize
knowledge, folder = sys.argv[1:]
arguments = MemoryArguments(knowledge=knowledge, batch_size=4, device="cpu")
def timed(bank):
    start = time.monotonic()
    memorize(f"{folder}/{bank}", arguments, shard_size=2)
    return time.monotonic() - start
timed("warm-up")
whole, nothing_to_do = timed("first"), timed("first")
a_shard = max(whole - nothing_to_do, 0.1) / 20
draw = random.Random(0)
for i in range(20):
    child = os.fork()
    if child == 0:
        timed("bank")
        os._exit(0)
    time.sleep(draw.uniform(0.3 * nothing_to_do, nothing_to_do + 3 * a_shard))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    path = f"{folder}/bank"
    print(len([name for name in os.listdir(path) if name[0] != "."]) if os.path.isdir(path) else 0, flush=True)
timed("bank")
"""


def test_killed_at_twenty_moments(small, tmp_path):
    """kill -9 during memorize, again and again: in the end the bank is the one made in one go, byte for byte."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(small.folder), str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = [int(line) for line in done.stdout.split()]  # after each kill: the manifest and up to 20 shards
    assert len(files) == 20
    assert sum(n < 21 for n in files) >= 5
    first, resumed = (MemoryBank.open(tmp_path / name) for name in ("first", "bank"))
    assert len(first) == 40
    assert content(resumed) == content(first)
    assert not list((tmp_path / "bank").glob(".*"))


def test_two_processes_make_the_bank_of_one(run, small, tmp_path):
    """Byte for byte, and a new bank at that."""
    command = ["-m", "comem_lmms.cli", "memorize", "--batch_size", "4", "--shard_size", "8"]
    command += ["--model_args", f"knowledge={small.folder},device=cpu"]
    two = ["torchrun", "--nproc_per_node", "2", "--master_port", "29517", "--log-dir", "logs", "--redirects", "3"]
    run(*two, *command, "two", OMP_NUM_THREADS="1")
    run("python", *command, "one", OMP_NUM_THREADS="1")
    assert [path.name for path in sorted(tmp_path.glob("logs/*/attempt_0/*"))] == ["0", "1"]
    first = next(tmp_path.glob("logs/*/attempt_0/0/stdout.log")).read_text()
    assert first.startswith("two: 40 memories of 8 vectors as float32")
    assert not next(tmp_path.glob("logs/*/attempt_0/1/stdout.log")).read_text()
    assert content(MemoryBank.open(tmp_path / "two")) == content(MemoryBank.open(tmp_path / "one"))


def test_of_two_that_make_a_bank_at_once_one_wins(tmp_path):
    infos = [BankInfo(**{**vars(INFO), "encoder": {"memory_encoder": name}}) for name in "ab"]

    def make(folder, info):
        try:
            return MemoryBank.create(folder, info).info.encoder["memory_encoder"]
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        for i in range(50):
            results = list(pool.map(partial(make, tmp_path / str(i)), infos))
            made = MemoryBank.open(tmp_path / str(i)).info.encoder["memory_encoder"]
            lost = next(result for result in results if result != made)
            assert "was made by another encoder" in lost
            assert MemoryBank.create(tmp_path / str(i), infos["ab".index(made)]).info.encoder["memory_encoder"] == made


def test_what_a_kill_leaves_is_cleared(tmp_path):
    folder = tmp_path / "bank"
    folder.mkdir()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    leftover = folder / f".bank.json|{socket.gethostname()}|{gone.stdout.strip()}|.partial"
    alive = folder / f".x.safetensors|{socket.gethostname()}|{os.getpid()}|.partial"
    for path in (leftover, alive):
        path.write_text("half")
    bank = MemoryBank.create(folder, INFO)
    bank.remove_leftovers()
    assert [path.name for path in folder.glob(".*")] == [alive.name]


def test_others_may_read_what_is_written(tmp_path):
    bank = MemoryBank.create(tmp_path / "bank", INFO)
    bank.add(["a"], KEYS[:1], rows(1))
    (tmp_path / "plain").write_text("")
    modes = {path.stat().st_mode for path in [*bank.folder.iterdir(), tmp_path / "plain"]}
    assert len(modes) == 1


def test_places_where_no_bank_can_be(tmp_path, small):
    (tmp_path / "file").write_text("")
    for place, message in (("file", "is a file; give a folder"), ("file/below", "cannot write to memory bank")):
        with pytest.raises(UserError, match=message):
            MemoryBank.create(tmp_path / place, INFO)
    with pytest.raises(UserError, match="shard_size=0 must be at least 1"):
        memorize(str(tmp_path / "new"), arguments(small), shard_size=0)
    with pytest.raises(UserError, match="memory_bank='other' in the model arguments is not the bank"):
        memorize(str(tmp_path / "new"), arguments(small, memory_bank="other"))
    with pytest.raises(UserError, match="no memory bank at '2024'"):
        CoMEM(memory_bank=2024)
    assert not (tmp_path / "new").exists()


def test_a_bank_of_a_later_format(tmp_path):
    MemoryBank.create(tmp_path, INFO)
    path = tmp_path / "bank.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="is of format 2, and 1 is known; update comem-lmms"):
        MemoryBank.open(tmp_path)


def test_all_that_a_memory_depends_on_is_in_the_key_of_the_cache():
    other = BankInfo(**{**vars(INFO), "encoder": {**INFO.encoder, "preprocessing": "x"}})
    assert other.fingerprint != INFO.fingerprint
