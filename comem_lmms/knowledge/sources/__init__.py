"""Where the rows of a knowledge base come from: ``wit``, ``wit_base``, or a path of one's own files."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from comem_lmms.data import hub, places
from comem_lmms.data.downloads import Downloads
from comem_lmms.data.http import Client
from comem_lmms.data.sources import File
from comem_lmms.errors import UserError
from comem_lmms.knowledge.candidates import Part, Reader, Source
from comem_lmms.knowledge.sources import mds, parquet, tables, wit, wit_base

_READERS: dict[str, Reader] = {
    ".jsonl": tables.read_jsonl,
    ".csv": tables.read_csv,
    ".tsv": wit.read,
    ".tsv.gz": wit.read,
    ".parquet": tables.read_parquet,
}


def find(
    name: str,
    shards: str | None = None,
    client: Client | None = None,
    revision: str | None = None,
    rows: int | None = None,
) -> Source:
    """The source of a name or path.

    Args:
        name: ``wit``, ``wit_base`` (from the Hub), or a file or folder: JSON lines, Parquet, WIT's TSV, images with a
            metadata.jsonl or metadata.csv, or the reference's retrieval results (MDS).
        shards: which of the files of ``wit`` and ``wit_base``, such as ``0-9`` or ``0,2,4``; default: all.
        client: for downloads.
        revision: of ``wit_base``, a commit of the Hub; default: the newest.
        rows: of each file, the first so many; default: all.

    Raises:
        UserError: there is no such source, or no such shard.
    """
    if rows is None:
        return _find(name, shards, client, revision)
    if rows < 1:
        raise UserError(f"--rows {rows} must be at least 1")
    whole = _find(name, shards, client, revision)
    return replace(whole, rows=rows, settings={**whole.settings, "rows": rows})


def _find(name: str, shards: str | None, client: Client | None, revision: str | None) -> Source:
    if name == "wit":
        return _wit(shards, client or Client())
    if name == wit_base.REPOSITORY.partition("/")[2]:
        return _wit_base(shards, client or Client(), revision)
    if shards is not None or revision is not None:
        raise UserError(f"--shards and --revision are for wit and wit_base, not for {name}; give the files themselves")
    return _own(Path(name))


def _wit(shards: str | None, client: Client) -> Source:
    names = [wit.SHARD.format(i) for i in _numbers(shards, wit.SHARDS)]
    downloads = Downloads(places.downloads(), client)
    parts = [Part(_stem(name), partial(downloads.get, File(f"wit/{name}", url=wit.URL.format(name)))) for name in names]
    return Source(parts, wit.read, {"source": "wit", "files": names}, wit.ABOUT)


def _wit_base(shards: str | None, client: Client, revision: str | None) -> Source:
    commit, names = hub.files(wit_base.REPOSITORY, revision, ".parquet")
    downloads = Downloads(places.downloads(), client)
    parts = []
    for number in _numbers(shards, len(names)):
        file = File(
            f"wit_base/{commit}/{number:05}.parquet",
            repository=wit_base.REPOSITORY,
            path=names[number],
            revision=commit,
        )
        get = partial(downloads.get, file)
        # All 330 of them would be 300 GB.
        parts.append(Part(f"wit_base-{number:05}", get, partial(_remove, places.downloads() / file.name)))
    settings = {"source": "wit_base", "revision": commit, "files": [part.name for part in parts]}
    return Source(parts, wit_base.read, settings, {**wit_base.ABOUT, "revision": commit})


def _own(path: Path) -> Source:
    if (path / mds.INDEX).is_file():
        return _mds(path)
    files = _files(path)
    reader = _READERS[_ending(files[0])]
    about = {"source": str(path), "licence": "as its owner says"}
    if reader is wit.read:
        about = wit.ABOUT
    elif reader is tables.read_parquet:
        names = parquet.columns(files[0])
        if wit_base.PAGES in names:
            reader, about = wit_base.read, wit_base.ABOUT
        elif "text" not in names:
            raise UserError(f"{files[0]} has no column 'text', but {', '.join(names)}; call that of the texts so")
    ids: Any = "place" if reader in (wit.read, wit_base.read) else "own"
    settings = {"source": str(path), "files": _states(files)}
    return Source([Part(_stem(file.name), _there(file)) for file in files], reader, settings, about, ids)


def _mds(folder: Path) -> Source:
    files = mds.shards(folder)
    settings = {"source": str(folder), "files": _states(files)}
    return Source([Part(file.name, _there(file)) for file in files], mds.read, settings, mds.ABOUT, "content")


def _states(files: list[Path]) -> list[list[Any]]:
    """Name, size and time of the last change of each file: a build goes on with those that it began with."""
    stats = [file.stat() for file in files]
    return [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in zip(files, stats, strict=True)]


def _files(path: Path) -> list[Path]:
    if path.is_file() and _ending(path):
        return [path]
    if path.is_dir():
        for name in ("metadata.jsonl", "metadata.csv"):
            if (path / name).is_file():
                return [path / name]
        files = sorted(file for file in path.iterdir() if _ending(file) in (".parquet", ".tsv.gz", ".tsv", ".jsonl"))
        if len(kinds := sorted({_ending(file) for file in files})) > 1:
            raise UserError(
                f"--source {path} has files of several kinds ({', '.join(kinds)}); give a folder of one kind"
            )
        if files:
            return files
    raise UserError(
        f"--source {path} is neither wit nor wit_base, nor a file or folder of {', '.join(_READERS)}; give one of them"
    )


def _there(file: Path) -> Callable[[], Path]:
    return lambda: file


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def _ending(file: Path) -> str:
    return next((ending for ending in _READERS if file.name.endswith(ending)), "")


def _stem(name: str) -> str:
    """Short, since it is in every id."""
    return name.removesuffix(_ending(Path(name))).removeprefix("wit_v1.").replace("-of-00010", "")


def _numbers(shards: str | None, n: int) -> list[int]:
    """``0-2,5`` as numbers."""
    if shards is None:
        return list(range(n))
    numbers: set[int] = set()
    for part in shards.split(","):
        first, dash, last = part.partition("-")
        if (
            not first.isdecimal()
            or (dash and not last.isdecimal())
            or int(last or first) >= n
            or int(first) > int(last or first)
        ):
            raise UserError(
                f"--shards {shards!r} names no shards; give numbers from 0 to {n - 1}, such as 0-{n - 1} or 0,2"
            )
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)
