"""Makes a retrieval run: a knowledge base with its index and tasks of lmms-eval in, a folder for `Run` out.

Documents are read in parts, each written as a whole, so an interrupted run goes on where it was and becomes the same.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from comem_lmms import __version__
from comem_lmms.errors import UserError
from comem_lmms.files import alone, on_disk, read_json, sha256, whole, write_json
from comem_lmms.harness import Documents
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.knowledge.rows import digest_of, same_title
from comem_lmms.knowledge.shards import Shards
from comem_lmms.queries import key_of
from comem_lmms.records import Query, Right
from comem_lmms.runs.run import DOCUMENTS, FORMAT, FOUND, HITS, MANIFEST, PARTS, SCHEMAS, WHAT, Run

if TYPE_CHECKING:
    from comem_lmms.importing import Imported
    from comem_lmms.retrieval import Retriever

    Finder = Retriever | Imported

PART = 128  # documents that an interruption can cost
GROUP = 1000  # rows of a row group: what is read to get at one
_FOUND = pa.schema(FOUND)
_SETTINGS = "settings.json"


class _Part(NamedTuple):
    """Some documents of a task, and the files about them."""

    documents: Documents
    start: int
    stop: int
    hits: Path
    rows: Path


class _Parts(NamedTuple):
    """All parts as one: what was found for each query, and all documents."""

    hits: Shards
    documents: Shards


def check(folder: Path, kind: str, tasks: Sequence[Documents]) -> Right:
    """What tells a control the right items of all documents.

    Raises:
        UserError: something is wrong that can be known before a model is loaded.
    """
    if (folder / MANIFEST).exists():
        if read_json(folder / MANIFEST).get("what") != WHAT:
            raise UserError(f"{folder} has a {MANIFEST} that is not of a run; name another folder")
        raise UserError(f"{folder} holds a finished run; remove it, or name another folder")
    if kind == "clip" or all("item_id" in documents.columns for documents in tasks):
        return "item_id"
    for documents in tasks:
        if "entity" not in documents.declared:
            raise UserError(
                f"--kind {kind} needs the right item of each document, and those of task {documents.task} have no "
                "`item_id` nor an entity; use --kind clip"
            )
    return "entity"


def titled(knowledge: KnowledgeBase, tasks: Sequence[Documents]) -> dict[str, list[int]]:
    """The rows of every entity of the tasks' documents, by its title; none where the base has no such page."""
    entities = (documents.facts(number).entity for documents in tasks for number in range(len(documents)))
    return knowledge.titled({same_title(entity) for entity in entities if entity})


def retrieve(folder: Path, tasks: Sequence[Documents], retriever: "Finder", k: int) -> Run:
    """Searches for every different query of the tasks once, and writes the run.

    Raises:
        UserError: the folder holds a finished run or one begun otherwise, no document has what is searched with, or
            one cannot be read.
    """
    check(folder, retriever.kind, tasks)
    parts = folder / PARTS
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {parts} ({error.strerror}); name another folder") from error
    with alone(folder):
        check(folder, retriever.kind, tasks)  # whether another process has made it meanwhile
        _make(folder, tasks, retriever, k)
        shutil.rmtree(parts)
    return Run.open(folder)


def _make(folder: Path, tasks: Sequence[Documents], retriever: "Finder", k: int) -> None:
    """Makes all parts and joins them."""
    settings = {
        "retrieval": retriever.fingerprint,
        "k": k,
        "tasks": {documents.task: len(documents) for documents in tasks},
    }
    _begin(folder, settings)
    parts = _plan(folder / PARTS, tasks)
    seen: set[bytes] = set()
    with tqdm(total=sum(map(len, tasks)), desc="Retrieving", unit="document") as bar:
        for part in parts:
            if part.hits.is_file():
                seen.update(pq.read_table(part.hits, columns=["key"]).column("key").to_pylist())
            else:
                _write_part(part, seen, retriever, k)
            bar.update(part.stop - part.start)
    if not seen:
        raise UserError(
            f"no document of {', '.join(d.task for d in tasks)} has what retrieval by {retriever.by} needs; give "
            "another --query"
        )
    remedy = f"remove {folder} and run it again"
    hits = _joined([part.hits for part in parts], _FOUND, remedy)
    documents = _joined([part.rows for part in parts], SCHEMAS[DOCUMENTS], remedy)
    _finish(folder, _Parts(hits, documents), tasks, retriever, k)


def _plan(folder: Path, tasks: Sequence[Documents]) -> list[_Part]:
    starts = [(documents, start) for documents in tasks for start in range(0, len(documents), PART)]
    return [
        _Part(
            documents,
            start,
            min(start + PART, len(documents)),
            folder / f"{number:05}-{HITS}",
            folder / f"{number:05}-{DOCUMENTS}",
        )
        for number, (documents, start) in enumerate(starts)
    ]


def _joined(paths: Sequence[Path], schema: pa.Schema, remedy: str) -> Shards:
    return Shards(paths, [pq.read_metadata(path).num_rows for path in paths], schema, remedy)


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Notes what the parts are made of, or compares it with what is noted.

    Raises:
        UserError: the run was begun otherwise.
    """
    noted = folder / PARTS / _SETTINGS
    if not noted.is_file():
        with on_disk(noted):
            write_json(noted, settings)
    begun = read_json(noted)
    if different := [name for name in settings if begun.get(name) != settings[name]]:
        name = different[0]
        raise UserError(
            f"{folder} was begun with {name} {_shown(begun.get(name))}, not {_shown(settings[name])}; give the same "
            "knowledge base and options, or another folder"
        )


def _shown(setting: Any) -> str:
    return json.dumps(setting) if isinstance(setting, dict) else str(setting)[:12]


def _write_part(part: _Part, seen: set[bytes], retriever: "Finder", k: int) -> None:
    """Searches for what is new in a part, and notes its keys as seen."""
    rows: list[dict[str, Any]] = []
    new: list[bytes] = []

    def queries() -> Iterator[Query]:
        for number in range(part.start, part.stop):
            query = part.documents.query(number)
            key = key_of(query, retriever.kind, retriever.by, retriever.right)
            named = {"task": part.documents.task, "document": number, "key": key, "item_id": query.gold}
            rows.append({**named, **part.documents.facts(number)._asdict()})
            if key is not None and key not in seen:
                seen.add(key)
                new.append(key)
                yield query

    hits = list(retriever.search(queries(), k))
    found = [
        {"key": key, "ids": [hit.id for hit in one], "scores": [hit.score for hit in one]}
        for key, one in zip(new, hits, strict=True)
    ]
    # The hits last: with them the part counts.
    _write(part.rows, [rows], SCHEMAS[DOCUMENTS])
    _write(part.hits, [found], _FOUND)


def _finish(folder: Path, parts: "_Parts", tasks: Sequence[Documents], retriever: "Finder", k: int) -> None:
    """Joins the parts: the hits of each task by query, in the order in which its documents first ask for them."""
    digest = hashlib.sha256(f"{retriever.kind} {k} {retriever.knowledge.fingerprint}".encode())
    asking = _asking(parts.documents)
    place = {key: row for row, key in enumerate(_column(parts.hits, "key"))}

    def joined() -> Iterator[dict[str, Any]]:
        for (task, key), documents in asking.items():
            cells = {"task": task, "documents": documents, **parts.hits[place[key]]}
            told = json.dumps([documents, cells["ids"], cells["scores"]]).encode()
            digest.update(digest_of(task.encode(), key, told).digest())
            yield cells

    _write(folder / HITS, _grouped(joined()), SCHEMAS[HITS])
    rows = parts.documents
    _write(folder / DOCUMENTS, (batch.to_pylist() for batch in rows.batches(rows.columns)), SCHEMAS[DOCUMENTS])
    lengths = [len(ids) for ids in _column(parts.hits, "ids")]
    counted = {documents.task: _counts(documents, asking) for documents in tasks}
    manifest = {
        "what": WHAT,
        "format": FORMAT,
        "made_by": f"comem-lmms {__version__}",
        "kind": retriever.kind,
        "query": retriever.by,
        "text_weight": retriever.text_weight,
        "k": k,
        "per_image": retriever.per_image,
        "right": retriever.right,
        "without_right_item": None if retriever.titled is None else _homeless(parts.documents, retriever.titled),
        "knowledge": {
            "fingerprint": retriever.knowledge.fingerprint,
            "folder": str(retriever.knowledge.folder.resolve()),
        },
        "index": retriever.about,
        "retrieval": retriever.fingerprint,
        "tasks": counted,
        "documents": len(parts.documents),
        "not_searched": sum(count["not_searched"] for count in counted.values()),
        "queries": len(lengths),
        "fewer_than_k": sum(length < k for length in lengths),
        "fingerprint": digest.hexdigest(),
        "files": {name: [pq.read_metadata(folder / name).num_rows, sha256(folder / name)] for name in SCHEMAS},
    }
    write_json(folder / MANIFEST, manifest)


def _asking(documents: Shards) -> dict[tuple[str, bytes], list[int]]:
    """By task and key: the documents that ask."""
    asking: dict[tuple[str, bytes], list[int]] = {}
    for batch in documents.batches(["task", "document", "key"]):
        for task, document, key in zip(*batch.to_pydict().values(), strict=True):
            if key is not None:
                asking.setdefault((task, key), []).append(document)
    return asking


def _homeless(documents: Shards, titled: Mapping[str, Sequence[int]]) -> int:
    """Documents whose entity has no page in the base."""
    return sum(not (entity and titled[same_title(entity)]) for entity in _column(documents, "entity"))


def _counts(documents: Documents, asking: dict[tuple[str, bytes], list[int]]) -> dict[str, Any]:
    """What the manifest says of a task."""
    queries = [asked for (task, _), asked in asking.items() if task == documents.task]
    return {
        "documents": len(documents),
        "not_searched": len(documents) - sum(map(len, queries)),
        "queries": len(queries),
        "normalise": documents.declared.get("normalise"),
    }


def _column(table: Shards, name: str) -> Iterator[Any]:
    return (cell for batch in table.batches([name]) for cell in batch.column(name).to_pylist())


def _grouped(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == GROUP:
            yield group
            group = []
    yield group


def _write(path: Path, groups: Iterable[list[dict[str, Any]]], schema: pa.Schema) -> None:
    """A table, each list of rows a row group; whole or not at all."""
    settings = {"compression": "zstd", "write_page_checksum": True}
    with on_disk(path), whole(path) as partial, pq.ParquetWriter(partial, schema, **settings) as writer:
        for rows in groups:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
