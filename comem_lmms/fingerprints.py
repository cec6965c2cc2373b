"""Tells one checkpoint from another by the content of its files: a folder or Hub id in, a fingerprint out.

A checkpoint has one fingerprint, on the Hub and in every copy of it. Weights are large, so the hash of a large file is
read off its name in the Hub's cache, and is otherwise computed once and remembered in the user's cache folder.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from os import stat_result
from pathlib import Path
from uuid import uuid4

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.files import fetch, read_json, sha256, user_cache

log = logging.getLogger(__name__)

# What transformers reads of a VLM or a text LLM besides its weights; a README and the like do not change an answer.
SETTINGS = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
    "adapter_model.safetensors",
)
# Read where there is no tokenizer.json, which holds all of it; so copies agree that lack them beside one.
VOCABULARIES = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
# In the order in which transformers looks for them; each may be cut into shards, with an index.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_OF_A_MODEL = {".bin", ".jinja", ".json", ".model", ".py", ".safetensors", ".txt"}
LARGE = 32 << 20  # bytes; what is smaller is read every time
# A file that was changed a moment before it was read may be changed again without its times telling.
SETTLED = 2_000_000_000  # nanoseconds

_remembered: dict[str, str] = {}


def checkpoint_fingerprint(pretrained: str, revision: str | None = None) -> str:
    """Of all that transformers reads of a VLM or a text LLM: weights, configuration, preprocessing and tokenizer.

    Args:
        pretrained: folder or Hub id, of which what is missing is downloaded; or ``micro``.
        revision: on the Hub.

    Raises:
        UserError: there is no such checkpoint, or it lacks weights.
    """
    source = micro.resolve(pretrained, "vlm")
    folder = fetch(source, *SETTINGS, revision=revision)
    # Of the same commit, should the Hub get another one now; the Hub's cache has a folder a commit.
    fetched = partial(fetch, source, revision=None if folder == Path(source) else folder.name)
    names = [name for name in SETTINGS if (folder / name).is_file()]
    if "tokenizer.json" not in names:
        names += [name for name in VOCABULARIES if (fetched(*VOCABULARIES) / name).is_file()]
    weights = _weights(fetched)
    for name in weights:
        if not (folder / name).is_file():
            raise UserError(f"pretrained={pretrained!r} lacks {name}; download it again")
    return fingerprint(folder / name for name in [*names, *weights])


def folder_fingerprint(folder: Path) -> str:
    """Of all files of a folder that may belong to a model, for models of which it is not known what they read."""
    return fingerprint(path for path in folder.iterdir() if path.suffix in _OF_A_MODEL)


def fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 over the names and the contents of files, in the order of their names."""
    lines = sorted(f"{file.name} {content_hash(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def content_hash(file: Path) -> str:
    """The SHA-256 of a file's content; a large file that has not changed is read once on a machine."""
    path = file.resolve()
    # The Hub's cache names what it keeps in LFS by its SHA-256, and the rest by 40 digits of git's.
    if path.parent.name == "blobs" and path.parts[-3].startswith("models--") and _is_sha256(path.name):
        return path.name
    before = path.stat()
    if before.st_size < LARGE:
        return sha256(path)
    state = _state(path, before)
    if known := _recall(state):
        return known
    start = time.time_ns()
    digest = sha256(path)
    if _state(path, path.stat()) == state and start - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED:
        _remember(state, digest)
    return digest


def _weights(fetched: Callable[..., Path]) -> list[str]:
    """The files that transformers takes the weights from."""
    for single in WEIGHTS:
        index = f"{single}.index.json"
        folder = fetched(single, index)
        if (folder / single).is_file():
            return [single]
        if (folder / index).is_file():
            shards = sorted(set(read_json(folder / index).get("weight_map", {}).values()))
            fetched(*shards)
            return [index, *shards]
    return [WEIGHTS[0]]


def _state(path: Path, stat: stat_result) -> str:
    """Names a file in one state: whoever sets its times back changes ``ctime``, which nobody can set."""
    about = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return hashlib.sha256(repr(about).encode()).hexdigest()


def _is_sha256(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def _notes() -> Path:
    """A small file for each state of a large one, named by the state, with the hash in it."""
    return user_cache() / "hashes"


def _recall(state: str) -> str | None:
    if state in _remembered:
        return _remembered[state]
    try:
        noted = (_notes() / state).read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return noted if _is_sha256(noted) else None


def _remember(state: str, digest: str) -> None:
    _remembered[state] = digest
    partial_note = _notes() / f".{uuid4().hex}.partial"
    try:
        partial_note.parent.mkdir(parents=True, exist_ok=True)
        partial_note.write_text(digest)
        partial_note.replace(_notes() / state)
    except OSError as error:
        log.warning(
            "cannot note the hash of a checkpoint in %s (%s), so its files are read whole at every start; set "
            "XDG_CACHE_HOME to a folder that can be written to",
            _notes(),
            error.strerror,
        )
