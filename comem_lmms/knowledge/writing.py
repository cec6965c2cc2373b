"""Writes a knowledge base chunk by chunk: a chunk is there as a whole or not at all, whenever the process is killed.

Tables are written first, down to the disk, and then a row of a small SQLite database says that they count. Whoever goes
on after an interruption asks the database where to, so nothing is done twice and nothing is left out.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from comem_lmms import __version__
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import alone, read_json, sha256, sync, whole, write_json
from comem_lmms.knowledge import lookups
from comem_lmms.knowledge.rows import IMAGES, ITEMS, Row, checked, key
from comem_lmms.knowledge.shards import Shards

FORMAT = 2
MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"
STATE = "build.sqlite"
SPOOL = "spool"  # folder of images that were fetched for the chunk being made
GROUPS = {"items": 1000, "images": 64}  # rows of a row group, at most: what is read to get at one
GROUP_BYTES = 1 << 22  # of a row group of more than one row
_TABLES = """
create table if not exists settings (content text);
create table if not exists chunks (number integer primary key, content text);
create table if not exists images (sha256 text primary key, number integer) without rowid;
create table if not exists urls (hash blob primary key, sha256 text, failure text) without rowid;
create table if not exists ids (hash blob primary key) without rowid;
"""


class Chunk(NamedTuple):
    """What a chunk added.

    Attributes:
        items, images: rows of its tables; a table without rows has no file.
        id_bytes: of its ids together.
        position: where the source stood after it, for whoever goes on.
        counts: of whatever was counted.
        files: size and SHA-256 of each of its files, by the path inside the base.
    """

    items: int
    images: int
    id_bytes: int
    position: Any
    counts: dict[str, int]
    files: dict[str, list[Any]]


class StoredImage(NamedTuple):
    """An image of the base: its number, and the SHA-256 of its file."""

    number: int
    sha256: str


class Writer:
    """Adds items to a base that is being made, or goes on with one; nobody else can until it is closed.

    Args:
        folder: of the base.
        settings: what decides the result; a build that was begun with others is not gone on with.
        replace: a base that is there, finished or not.

    Raises:
        UserError: the folder cannot be written to, holds a finished base, one begun with other settings, or one that
            another process is making.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], replace: bool = False) -> None:
        self.folder = folder
        self._rows: list[dict[str, Any]] = []
        self._new: dict[str, tuple[StoredImage, bytes]] = {}
        self._ids: set[bytes] = set()
        self.pending_bytes = 0  # of images that are taken in, until the next commit
        self._held = ExitStack()
        try:
            self._begin(json.loads(json.dumps(settings)), replace)
        except BaseException:
            self.close()
            raise
        self._n_images = sum(chunk.images for chunk in self._chunks)

    def close(self) -> None:
        """Lets others go on."""
        self._held.close()

    @property
    def position(self) -> Any:
        """What the last `commit` was told, None before the first."""
        return self._chunks[-1].position if self._chunks else None

    @property
    def before(self) -> Any:
        """What the `commit` before the last was told."""
        return self._chunks[-2].position if len(self._chunks) > 1 else None

    @property
    def n_chunks(self) -> int:
        """Chunks that are written."""
        return len(self._chunks)

    @property
    def counts(self) -> dict[str, int]:
        """Over all chunks."""
        total: dict[str, int] = {}
        for chunk in self._chunks:
            for name, count in chunk.counts.items():
                total[name] = total.get(name, 0) + count
        return total

    def outcome(self, url: str) -> StoredImage | str | None:
        """What became of an image's URL in an earlier chunk: the image, the kind of failure, or None for not asked."""
        found = self._state.execute("select sha256, failure from urls where hash = ?", (_hash(url),)).fetchone()
        if found is None:
            return None
        return str(found[1]) if found[0] is None else self._stored(found[0])

    def image(self, data: bytes) -> StoredImage:
        """Takes in an image file; one with the same bytes as an earlier one is not stored again."""
        name = hashlib.sha256(data).hexdigest()
        stored = self._stored(name)
        if stored is None:
            stored = StoredImage(self._n_images + len(self._new), name)
            self._new[name] = (stored, data)
            self.pending_bytes += len(data)
        return stored

    def claim(self, id_: str) -> bool:
        """Whether an id was not claimed before, in this or an earlier chunk; for ids that may repeat."""
        if self.claimed(id_):
            return False
        self._ids.add(_hash(id_))
        return True

    def claimed(self, id_: str) -> bool:
        """Whether an id was claimed before."""
        name = _hash(id_)
        return name in self._ids or bool(self._state.execute("select 1 from ids where hash = ?", (name,)).fetchone())

    def add(self, row: Row, image: StoredImage | None = None) -> None:
        """The next item; its image is ``row.image`` or, where that is None, one taken in before.

        Raises:
            UserError: a field is of the wrong kind.
        """
        row = checked(row)
        if row.image is not None:
            image = self.image(row.image)
        cells: dict[str, Any] = {name: value for name, value in row._asdict().items() if name != "image"}
        cells["image"] = image.number if image else None
        cells["key"] = key(row.title, row.text, image.sha256 if image else None)
        self._rows.append(cells)

    def commit(
        self,
        position: Any = None,
        counts: Mapping[str, int] | None = None,
        urls: Mapping[str, StoredImage | str] | None = None,
        rejects: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Writes what was added since the last time.

        Args:
            position: of the source, as JSON; for whoever goes on.
            counts: of whatever is counted.
            urls: what became of each URL that was asked: its image, or the kind of failure.
            rejects: what was left out, one object each, for people.

        Raises:
            UserError: the disk is full, or refuses.
        """
        try:
            files = self._write_tables()
            self._rejects(self.n_chunks).unlink(missing_ok=True)  # of a chunk that did not come to count
            if lines := "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects):
                with whole(self._rejects(self.n_chunks)) as partial:
                    partial.write_text(lines, encoding="utf-8")
            chunk = Chunk(
                items=len(self._rows),
                images=len(self._new),
                id_bytes=sum(len(cells["id"].encode()) for cells in self._rows),
                position=position,
                counts=dict(counts or {}),
                files=files,
            )
            self._record(chunk, urls or {})
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"cannot write to knowledge base {self.folder} ({one_line(error)}); put that right and run it again, "
                "what is written is kept"
            ) from error
        self._chunks.append(chunk)
        self._n_images += chunk.images
        self._rows, self._new, self._ids = [], {}, set()
        self.pending_bytes = 0

    def finish(self, **about: Any) -> dict[str, Any]:
        """Makes the lookups and the manifest, with which the base is whole, and returns the manifest.

        Args:
            about: source, licence, ... for the manifest.

        Raises:
            UserError: two items have the same id.
        """
        chunks = self._chunks
        files = {name: about for chunk in chunks for name, about in chunk.files.items()}
        names = [f"items/{i:05}.parquet" for i, chunk in enumerate(chunks) if chunk.items]
        items = Shards(
            [self.folder / name for name in names],
            [chunk.items for chunk in chunks if chunk.items],
            ITEMS,
            "remove the folder and build the base again",
        )
        folder = self.folder / lookups.FOLDER
        fingerprint = lookups.make(folder, items, sum(chunk.id_bytes for chunk in chunks), self._n_images)
        for path in sorted(folder.iterdir()):
            sync(path)
            files[f"{lookups.FOLDER}/{path.name}"] = [None, path.stat().st_size, sha256(path)]
        sync(folder)
        self._join_rejects()
        manifest = {
            "format": FORMAT,
            "made_by": f"comem-lmms {__version__}",
            **about,
            "items": len(items),
            "images": self._n_images,
            "fingerprint": fingerprint,
            "files": files,
        }
        write_json(self.folder / MANIFEST, manifest)
        self._state.close()
        for path in self.folder.glob(f"{STATE}*"):
            path.unlink()
        self.close()
        return manifest

    def _begin(self, settings: dict[str, Any], replace: bool) -> None:
        """Opens the state, made if need be, and takes in what counts."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(alone(self.folder))  # two builds in one folder would write the same files
            if replace:
                remove(self.folder)
            _check_new(self.folder)
            for name in GROUPS:
                (self.folder / name).mkdir(exist_ok=True)
            # Without SQLite's own locks, which fail where the file system has none.
            place = f"{(self.folder / STATE).absolute().as_uri()}?vfs=unix-none"
            self._state = self._held.enter_context(closing(sqlite3.connect(place, isolation_level=None, uri=True)))
            self._state.execute("pragma cache_size = -262144")  # KiB
            self._state.executescript(f"pragma locking_mode = exclusive; {_TABLES}")
            self._chunks = [Chunk(**json.loads(content)) for (content,) in self._select("chunks order by number")]
            begun = [json.loads(content) for (content,) in self._select("settings")]
        except UserError:
            raise
        except (OSError, sqlite3.Error, ValueError) as error:
            raise UserError(
                f"cannot make a knowledge base in {self.folder} ({one_line(error)}); name another"
            ) from error
        if not begun:
            self._state.execute("insert into settings values (?)", (json.dumps(settings),))
        elif begun[0] != settings:
            names = sorted(k for k in {*begun[0], *settings} if begun[0].get(k) != settings.get(k))
            raise UserError(
                f"{self.folder} was begun with {names[0]}={begun[0].get(names[0])!r}, not {settings.get(names[0])!r}; "
                "give the same options, or another folder"
            )
        files = {name: about for chunk in self._chunks for name, about in chunk.files.items()}
        check_sizes(self.folder, files, f"remove {self.folder} and build it again")

    def _write_tables(self) -> dict[str, list[Any]]:
        images = [
            {"sha256": stored.sha256, "image": {"bytes": data, "path": None}} for stored, data in self._new.values()
        ]
        files = {}
        for name, schema, rows in (("items", ITEMS, self._rows), ("images", IMAGES, images)):
            path = self.folder / name / f"{self.n_chunks:05}.parquet"
            path.unlink(missing_ok=True)
            if rows:
                _write_table(path, pa.Table.from_pylist(rows, schema=schema), GROUPS[name])
                files[f"{name}/{path.name}"] = [len(rows), path.stat().st_size, sha256(path)]
        return files

    def _join_rejects(self) -> None:
        parts = [self._rejects(number) for number in range(self.n_chunks)]
        if parts := [path for path in parts if path.is_file()]:
            with whole(self.folder / REJECTS) as partial, partial.open("wb") as rejects:
                for path in parts:
                    with path.open("rb") as lines:
                        shutil.copyfileobj(lines, rejects)

    def _rejects(self, chunk: int) -> Path:
        return self.folder / f"{STATE}.rejects-{chunk:05}.jsonl"

    def _record(self, chunk: Chunk, urls: Mapping[str, StoredImage | str]) -> None:
        state = self._state
        state.execute("begin")
        state.executemany(
            "insert into images values (?, ?)", [(stored.sha256, stored.number) for stored, _ in self._new.values()]
        )
        outcomes = [
            (_hash(url), None, told) if isinstance(told, str) else (_hash(url), told.sha256, None)
            for url, told in urls.items()
        ]
        state.executemany("insert or replace into urls values (?, ?, ?)", outcomes)
        state.executemany("insert into ids values (?)", [(name,) for name in self._ids])
        state.execute("insert into chunks values (?, ?)", (self.n_chunks, json.dumps(chunk._asdict())))
        state.execute("commit")

    def _stored(self, name: str) -> StoredImage | None:
        if name in self._new:
            return self._new[name][0]
        found = self._state.execute("select number from images where sha256 = ?", (name,)).fetchone()
        return StoredImage(int(found[0]), name) if found else None

    def _select(self, what: str) -> list[tuple[Any, ...]]:
        return self._state.execute(f"select content from {what}").fetchall()


def check_sizes(folder: Path, files: Mapping[str, Sequence[Any]], remedy: str) -> int:
    """The bytes of all files of a base: rows, size and SHA-256 by name.

    Raises:
        UserError: one is missing, or has another size.
    """
    for name, (_, size, _) in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            told = "is missing" if found is None else f"has {found:,} bytes, not {size:,}: it is damaged"
            raise UserError(f"knowledge base {folder}: {name} {told}; {remedy}")
    return sum(size for _, size, _ in files.values())


def remove(folder: Path) -> None:
    """Removes a base, finished or not, from a folder; what else is there stays."""
    for name in (MANIFEST, REJECTS):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob(f"{STATE}*"):
        path.unlink()
    for name in ("items", "images", lookups.FOLDER, SPOOL):
        shutil.rmtree(folder / name, ignore_errors=True)


def _check_new(folder: Path) -> None:
    """Raises UserError if a folder holds a finished base, or something else with a manifest."""
    if (folder / MANIFEST).is_file():
        if "items" not in read_json(folder / MANIFEST):
            raise UserError(f"{folder} has a {MANIFEST} that is not of a knowledge base; name another folder")
        raise UserError(f"{folder} holds a finished knowledge base; remove it, or name another folder")


def _write_table(path: Path, table: pa.Table, group: int) -> None:
    settings = {"compression": "zstd", "compression_level": 9, "write_page_checksum": True}
    with whole(path) as partial, pq.ParquetWriter(partial, table.schema, **settings) as writer:
        start = 0
        while start < len(table):
            rows = table.slice(start, group)
            while len(rows) > 1 and rows.nbytes > GROUP_BYTES:
                rows = rows.slice(0, len(rows) // 2)
            writer.write_table(rows)
            start += len(rows)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
