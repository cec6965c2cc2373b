"""A checkpoint has one fingerprint wherever it lies, and another one as soon as it changes."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import as_on_the_hub
from safetensors.torch import load_file, save_file

from comem_lmms import fingerprints, micro
from comem_lmms.errors import UserError
from comem_lmms.files import sha256
from comem_lmms.fingerprints import checkpoint_fingerprint, content_hash

MICRO = Path(micro.resolve("micro", "vlm"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/comem-lmms/hashes"


@pytest.fixture
def large(tmp_path):
    """A file that is worth remembering, and has lain there for a while."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(fingerprints.LARGE)
    time.sleep(fingerprints.SETTLED / 1e9 + 0.1)
    return path


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(MICRO, tmp_path / "copy", copy_function=shutil.copyfile)
    return tmp_path / "copy"


def test_a_copy_has_the_fingerprint_of_what_is_on_the_hub(run, copy, tmp_path):
    """The Hub's cache keeps files in LFS under their SHA-256, which is taken for granted, and others under git's."""
    as_on_the_hub(MICRO, tmp_path / "hub", "owner/vlm")
    ask = "import sys; from comem_lmms.fingerprints import checkpoint_fingerprint as f; print(f(sys.argv[1]))"
    found = [run("python", "-c", ask, name, HF_HUB_CACHE=str(tmp_path / "hub")).stdout for name in ("owner/vlm", copy)]
    assert found[0].splitlines()[-1] == found[1].splitlines()[-1] == checkpoint_fingerprint("micro")


def test_a_bank_of_the_hub_serves_a_copy(run, copy, tmp_path, knowledge):
    as_on_the_hub(MICRO, tmp_path / "hub", "owner/vlm")
    program = (
        "import sys; from comem_lmms.models.arguments import MemoryArguments as A\n"
        "from comem_lmms.models.memorize import memorize\n"
        "a = A(pretrained=sys.argv[1], memory_encoder='micro', device='cpu')\n"
        "print(len(memorize('bank', a, ids=sys.argv[2:])))\n"
    )
    hub = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    first, second = knowledge.id(0), knowledge.id(1)
    assert run("python", "-c", program, "owner/vlm", first, **hub).stdout.splitlines()[-1] == "1"
    assert run("python", "-c", program, str(copy), first, second, **hub).stdout.splitlines()[-1] == "2"


def test_names_in_the_hubs_cache_are_taken_for_granted(tmp_path):
    folder = as_on_the_hub(MICRO, tmp_path / "hub", "owner/vlm")
    weights, config = folder / "model.safetensors", folder / "config.json"
    weights.resolve().write_bytes(b"")  # so that reading it would give another hash
    assert content_hash(weights) == sha256(MICRO / "model.safetensors")
    config.resolve().write_text("{}")
    assert content_hash(config) == sha256(config)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "processor_config.json", "tokenizer.json"])
def test_any_change_changes_the_fingerprint(copy, name):
    before = checkpoint_fingerprint(str(copy))
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    assert checkpoint_fingerprint(str(copy)) != before


def test_what_does_not_change_answers_is_left_out(copy):
    before = checkpoint_fingerprint(str(copy))
    (copy / "README.md").write_text("mine")
    (copy / "training.json").write_text("{}")
    (copy / "vocab.json").write_text("{}")  # tokenizer.json is there
    (copy / "pytorch_model.bin").write_text("older weights, which are not read")
    assert checkpoint_fingerprint(str(copy)) == before
    (copy / "tokenizer.json").unlink()
    without = checkpoint_fingerprint(str(copy))
    (copy / "vocab.json").write_text('{"a": 1}')
    assert len({before, without, checkpoint_fingerprint(str(copy))}) == 3


def test_shards(copy):
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pretrained='.*copy' lacks model.safetensors; download it again"):
        checkpoint_fingerprint(str(copy))
    for i in range(2):
        save_file(dict([*tensors.items()][i::2]), copy / f"model-{i}.safetensors")
    index = copy / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-0.safetensors", "b": "model-1.safetensors"}}')
    before = checkpoint_fingerprint(str(copy))
    (copy / "model-1.safetensors").write_bytes(b"other")
    assert checkpoint_fingerprint(str(copy)) != before
    (copy / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model-1.safetensors; download it again"):
        checkpoint_fingerprint(str(copy))


def in_another_process(path, **environment):
    """The hash, and the bytes that were read for it."""
    program = (
        "import sys; from pathlib import Path; from comem_lmms import files, fingerprints\n"
        "read = lambda: int(next(l for l in open('/proc/self/io') if l.startswith('rchar')).split()[1])\n"
        "start = read(); print(fingerprints.content_hash(Path(sys.argv[1])), read() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    digest, read = done.stdout.split()
    return digest, int(read), done.stderr


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux tells what was read")
def test_a_large_file_is_read_once(cache, large):
    right = sha256(large)
    digest, read, _ = in_another_process(large)
    assert (digest, read >= fingerprints.LARGE) == (right, True)
    (note,) = cache.iterdir()
    digest, read, _ = in_another_process(large)
    assert (digest, read < fingerprints.LARGE / 10) == (right, True)
    note.write_text("damaged")
    assert in_another_process(large)[0] == right
    assert note.read_text() == right


def test_a_changed_file_never_gives_an_old_hash(cache, large):
    """Not even with its size, its times and its name as they were."""
    before = large.stat()
    old = content_hash(large)
    assert content_hash(large) == old
    with large.open("r+b") as file:
        file.write(b"changed")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (large.stat().st_size, large.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert content_hash(large) == sha256(large) != old
    other = large.with_name("other")
    other.write_bytes(bytes(fingerprints.LARGE - 1) + b"x")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(large)
    assert content_hash(large) == sha256(large) != old


def test_a_file_that_was_just_written_is_not_remembered(cache, tmp_path):
    """It may be written again within a tick of the clock that its times are taken from."""
    path = tmp_path / "new.safetensors"
    path.write_bytes(bytes(fingerprints.LARGE))
    assert content_hash(path) == sha256(path)
    assert not cache.exists()


def test_a_cache_folder_that_cannot_be_written_to_is_said(large, tmp_path):
    (tmp_path / "file").write_text("")
    digest, _, said = in_another_process(large, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert digest == sha256(large)
    assert "cannot note the hash of a checkpoint" in said
    assert "set XDG_CACHE_HOME to a folder that can be written to" in said
