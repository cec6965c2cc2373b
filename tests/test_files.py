"""What is said to be on the disk is there when the power fails, and a folder has one process at work."""

import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from comem_lmms.errors import UserError
from comem_lmms.files import LOCK, alone, whole, write_json
from comem_lmms.harness import Documents
from comem_lmms.knowledge import KnowledgeBase, Writer
from comem_lmms.knowledge.writing import STATE
from comem_lmms.memory import BankInfo, MemoryBank
from comem_lmms.plugin import task_folder
from comem_lmms.retrieval import ClipEmbedder, Index, Retriever, embed
from comem_lmms.retrieve import retrieve

# A file system on which flock is what Linux makes of it on NFS: a lock of fcntl, which wants a file that is written.
ON_NFS = """
import fcntl, sys
from pathlib import Path
from comem_lmms.errors import UserError
from comem_lmms.files import alone

fcntl.flock = fcntl.lockf
with alone(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


class Disk:
    """What of the files is on the disk, and not only in the machine's memory: what fsync has put there."""

    def __init__(self) -> None:
        self.files: dict[int, str] = {}
        self.folders: dict[int, set[str]] = {}

    def sync(self, descriptor: int) -> None:
        path, inode = Path(f"/proc/self/fd/{descriptor}").resolve(), os.fstat(descriptor).st_ino
        if path.is_dir():
            self.folders[inode] = set(os.listdir(path))
        else:
            self.files[inode] = hashlib.sha256(path.read_bytes()).hexdigest()

    def lacks(self, *paths: Path) -> list[Path]:
        return [path for path in paths if not self._has(path)]

    def _has(self, path: Path) -> bool:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        named = path.name in self.folders.get(path.parent.stat().st_ino, ())
        return named and self.files.get(path.stat().st_ino) == content


@pytest.fixture
def microseek():
    """MicroSeek as lmms-eval loads it."""
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=task_folder(), include_defaults=False)
    return manager.load_task_or_group(["microseek"], "chat")["microseek"]


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.sync)
    return disk


def test_a_file_is_on_the_disk_or_not_there(tmp_path, disk):
    write_json(tmp_path / "a.json", {"a": 1})
    assert not disk.lacks(tmp_path / "a.json")
    with pytest.raises(TypeError), whole(tmp_path / "a.json") as partial:
        partial.write_bytes("half")
    assert (tmp_path / "a.json").read_text() == '{\n "a": 1\n}\n'


def test_a_chunk_counts_when_its_tables_are_on_the_disk(tmp_path, knowledge, disk):
    writer, counted = Writer(tmp_path, {}), []

    def seen(statement: str) -> None:
        if statement.startswith("insert into chunks"):
            made = [path for name in ("items", "images") for path in (tmp_path / name).iterdir()]
            counted.append(disk.lacks(*made, *tmp_path.glob(f"{STATE}.rejects-*")))

    writer._state.set_trace_callback(seen)
    for row in range(4):
        writer.add(knowledge.row(row))
        writer.commit(row, rejects=[{"row": row}])
    assert counted == [[], [], [], []]
    writer.finish()
    assert not disk.lacks(*(path for path in tmp_path.rglob("*") if path.is_file()))


def test_embeddings_index_and_runs_are_on_the_disk(tmp_path, knowledge, disk, microseek):
    base = KnowledgeBase.create(tmp_path / "kb", [knowledge.row(row) for row in range(30)])
    embed(base, ClipEmbedder("micro"), shard=20)
    Index.build(base)
    retrieve(tmp_path / "run", [Documents("microseek", microseek)], Retriever(base), 3)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) > 15
    assert not disk.lacks(*made)


def test_memories_are_on_the_disk(tmp_path, disk):
    info = BankInfo({"memory_encoder": "e" * 64}, "some/vlm", "v" * 64, 8, 16, "float32")
    bank = MemoryBank.create(tmp_path / "bank", info)
    bank.add(["a"], ["0" * 64], torch.zeros(1, 8, 16))
    (shard,) = (tmp_path / "bank").glob("*.safetensors")
    assert not disk.lacks(shard)


def test_a_damaged_table_is_noticed_before_a_build_goes_on(tmp_path, knowledge):
    writer = Writer(tmp_path, {})
    writer.add(knowledge.row(0))
    writer.commit()
    writer.close()
    size = (tmp_path / "items/00000.parquet").stat().st_size
    (tmp_path / "items/00000.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=rf"00000.parquet has 0 bytes, not {size:,}: it is damaged; remove"):
        Writer(tmp_path, {})


def test_a_folder_has_one_process_at_work_on_nfs_too(tmp_path):
    def started() -> subprocess.Popen:
        command = [sys.executable, "-c", ON_NFS, str(tmp_path)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    first = started()
    assert first.stdout.readline() == "in\n"
    _, error = started().communicate()
    assert error.splitlines()[-1].endswith(f"another process is at work in {tmp_path}; wait for it, or stop it")
    first.kill()
    first.wait()
    assert (tmp_path / LOCK).is_file()
    said, error = started().communicate()  # what the killed one left keeps nobody out
    assert (said, error) == ("in\n", "")
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), alone(tmp_path), alone(tmp_path):
        pass
    said = f"{tmp_path / LOCK} cannot be locked (No locks available): see to it that no second process is started in"
    assert caplog.messages == [f"{said} {tmp_path}"] * 2


def test_a_base_that_another_process_makes_is_not_replaced(tmp_path, knowledge):
    base = KnowledgeBase.create(tmp_path, [knowledge.row(0)])
    with alone(tmp_path), pytest.raises(UserError, match="another process is at work"):
        KnowledgeBase.create(tmp_path, [knowledge.row(1)])
    assert KnowledgeBase.open(tmp_path).fingerprint == base.fingerprint
    assert KnowledgeBase.create(tmp_path, [knowledge.row(1)]).fingerprint != base.fingerprint


def test_where_no_file_can_be_made_the_folder_is_locked(tmp_path, monkeypatch):
    """As root, who may write everywhere, the tests cannot have such a folder."""
    opened = os.open

    def refused(path, flags, *more):
        if flags & os.O_CREAT:
            raise OSError(30, os.strerror(30), str(path))
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", refused)
    for _ in range(2):
        with alone(tmp_path):
            assert not list(tmp_path.iterdir())
            with pytest.raises(UserError, match="another process is at work"), alone(tmp_path):
                pass
    os.close(opened(tmp_path / LOCK, os.O_CREAT))  # of somebody else
    with alone(tmp_path), pytest.raises(UserError, match="another process is at work"), alone(tmp_path):
        pass


def test_whoever_opened_the_lock_before_it_was_removed_makes_another(tmp_path, monkeypatch):
    flock, removed = fcntl.flock, []

    def late(descriptor, operation):
        flock(descriptor, operation)
        if not removed:
            removed.append((tmp_path / LOCK).unlink())

    monkeypatch.setattr(fcntl, "flock", late)
    with alone(tmp_path):
        assert (tmp_path / LOCK).is_file()
        with pytest.raises(UserError, match="another process is at work"), alone(tmp_path):
            pass


def test_an_index_is_not_built_beside_other_work(tmp_path, knowledge):
    base = KnowledgeBase.create(tmp_path, [knowledge.row(row) for row in range(3)])
    with alone(tmp_path), pytest.raises(UserError, match="another process is at work"):
        Index.build(base)
    assert LOCK not in json.dumps(base.manifest)
