"""Files that appear whole or not at all, folders with one process at work, JSON in and out, and fingerprints."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem_lmms.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
LOCK = ".comem-lmms.lock"  # in a folder that a process is at work in


def readable_size(number: float) -> str:
    """Bytes for people: three digits and a unit."""
    for unit in ("B", "kB", "MB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB" if number < 999.5 else f"{number:,.0f} GB"


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """The object in a JSON file, with all fields that are needed.

    Raises:
        UserError: the file is missing, is not a JSON object, or lacks a field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); build or copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a JSON object; build or copy it again")
    check_fields(path, content, *needed)
    return content


def check_fields(path: Path, content: Mapping[str, Any], *needed: str) -> None:
    """Raises UserError if what was read from a JSON file lacks a field."""
    if lacking := [name for name in needed if name not in content]:
        raise UserError(f"{path} has no {lacking[0]!r}: it is damaged or was changed; build or copy it again")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes an object as JSON, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that gets the name ``path`` when the context ends.

    It is there as a whole or not at all, whatever ends the process or the machine, and before what is written later.
    """
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Has the content of a file, or the names in a folder, on the disk, so that a power failure leaves them there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot do it for a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Says of what goes wrong within that it is no fault of a network, a host or a file, but of this disk.

    Raises:
        UserError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or one_line(error)
        raise UserError(
            f"cannot write {error.filename or path} ({reason}); put that right and run it again: what was done is kept"
        ) from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for the same out of a folder, until the context or this process ends, however.

    The lock is one of the operating system on an empty file, removed at the end; the file that a killed process leaves
    keeps nobody out. Where this process may make no file it is on the folder itself. Where the file system has no such
    locks the log says so.

    Raises:
        UserError: another is at work there, or the disk is full.
    """
    descriptor = _locked(folder / LOCK)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # of another user, in a folder where only its owner removes a file
                (folder / LOCK).unlink()
            os.close(descriptor)


def _locked(file: Path) -> int | None:
    """A descriptor that holds the lock; None where none can be had."""
    while True:
        descriptor, path = _opened(file)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"another process is at work in {file.parent}; wait for it, or stop it") from error
            log.warning(
                "%s cannot be locked (%s): see to it that no second process is started in %s",
                path,
                error.strerror,
                file.parent,
            )
            return None
        # Whoever held it before has removed it by now, and others would lock a new one.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _opened(file: Path) -> tuple[int, Path]:
    """What to lock, and its path: the file, made if need be, or the folder where that is not allowed.

    The file is opened for writing, and by whoever may write in the folder: NFS locks nothing that is only read, nor a
    folder.
    """
    with on_disk(file):
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        else:
            with suppress(OSError):  # of another user
                os.fchmod(descriptor, 0o666)  # whatever the umask
            return descriptor, file
    path = file if file.exists() else file.parent
    return os.open(path, os.O_RDONLY), path


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name ``folder`` when the context ends, and is removed if it fails.

    Raises:
        UserError: ``folder`` is there already, or nothing can be made beside it.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already; remove it, or name another folder")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed and had this number
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make a folder in {folder.parent} ({error.strerror}); name another place") from error
    try:
        yield partial
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def is_hub_id(source: str) -> bool:
    """Whether a name can be a repository of the Hub: ``owner/name``, or ``owner/name@revision``."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[\w.-]+)?", source) is not None


def fetch(source: str, *patterns: str, revision: str | None = None) -> Path:
    """A folder as it is, or the files of a Hub repository that match ``patterns``, downloaded if need be.

    Raises:
        UserError: there is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    if not is_hub_id(source):
        raise UserError(f"{source!r} is not a folder, nor a Hub id (owner/name); give one of them")
    from huggingface_hub import snapshot_download

    name, _, pinned = source.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or pinned or None, allow_patterns=list(patterns)))
    except Exception as error:  # huggingface_hub and httpx raise a dozen kinds
        raise UserError(
            f"{source!r} is not a folder, and cannot be had from the Hub ({one_line(error)}); check the name"
        ) from error


def user_cache() -> Path:
    """Our folder in the user's cache folder, ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "comem-lmms"


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, as sha256sum prints it."""
    digest = hashlib.sha256()
    _feed(digest, file)
    return digest.hexdigest()


def files_fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files; a file that has not changed is read once."""
    stats = [(file, file.stat()) for file in files]
    return _hash_files(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, size, _ in files:
        digest.update(f"{file.name} {size}\n".encode())
        _feed(digest, file)
    return digest.hexdigest()


def _feed(digest: "hashlib._Hash", file: Path) -> None:
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)


def tensors_fingerprint(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of tensors, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
