"""A retrieval run on disk: a query's key in, the ids and scores that were found for it out.

A folder holds ``hits.parquet`` (a row for each task and query), ``documents.parquet`` (a row for each document, with
what it tells about its right answer) and ``manifest.json``, which says what was searched, how, and what was found.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from comem_lmms.errors import UserError
from comem_lmms.files import check_fields, read_json, sha256
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.knowledge.shards import Shards
from comem_lmms.records import By, Right

FORMAT, WHAT = 1, "retrieval run"
MANIFEST, HITS, DOCUMENTS, PARTS = "manifest.json", "hits.parquet", "documents.parquet", "parts"
_NEEDED = ("kind", "k", "query", "right", "fingerprint", "knowledge", "tasks", "files")
FOUND = [
    ("key", pa.binary(32)),
    ("ids", pa.list_(pa.string())),  # best first
    ("scores", pa.list_(pa.float32())),
]
SCHEMAS = {
    HITS: pa.schema([("task", pa.string()), ("documents", pa.list_(pa.int64())), *FOUND]),
    DOCUMENTS: pa.schema(
        [
            ("task", pa.string()),
            ("document", pa.int64()),  # its number in lmms-eval
            ("key", pa.binary(32)),  # none for a document that lacks what is searched with
            ("item_id", pa.string()),
            ("answers", pa.list_(pa.string())),
            *((name, pa.string()) for name in ("entity", "split", "language")),
        ]
    ),
}


class Run:
    """What was found for the queries of some tasks.

    Attributes:
        folder: where it lies.
        manifest: what is in ``manifest.json``.
        kind: "clip", "oracle" or "wrong".
        by: what of a question was searched with: "image", "text" or "both".
        right: what told a control the right items: "item_id", or the document's "entity".
        k: hits that were asked for, a query.
        fingerprint: SHA-256 over the knowledge base's, the kind, and all rows.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.kind, self.k, self.fingerprint = str(manifest["kind"]), int(manifest["k"]), str(manifest["fingerprint"])
        self.by: By = manifest["query"]
        self.right: Right = manifest["right"]
        self.hits, self.documents = (self._table(name) for name in (HITS, DOCUMENTS))

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Whether a folder holds a run, or one that is not finished."""
        return (folder / MANIFEST).is_file() or (folder / PARTS).is_dir()

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Opens a folder that `comem-lmms retrieve` finished, and compares its files with its manifest.

        Raises:
            UserError: the folder or a file is missing, of another format, or not what the manifest describes.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            remedy = "make one with `comem-lmms retrieve`"
            if (folder / PARTS).is_dir():
                remedy = "it is not finished, run the command that began it again"
            raise UserError(f"no retrieval run at {folder}: {MANIFEST} is missing; {remedy}")
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT or manifest.get("what") != WHAT:
            raise UserError(
                f"{folder / MANIFEST} is not that of a retrieval run of format {FORMAT}; make one with "
                "`comem-lmms retrieve`"
            )
        check_fields(folder / MANIFEST, manifest, *_NEEDED)
        for name, (_, expected) in manifest["files"].items():
            if not (folder / name).is_file() or sha256(folder / name) != expected:
                raise UserError(
                    f"retrieval run {folder}: {name} is missing, damaged or was changed afterwards; make or copy the "
                    "run again"
                )
        return cls(folder, manifest)

    def check(self, knowledge: KnowledgeBase, k: int) -> None:
        """Raises UserError unless the run is of this knowledge base and has ``k`` hits a query."""
        about = self.manifest["knowledge"]
        if about["fingerprint"] != knowledge.fingerprint:
            raise UserError(
                f"retrieval run {self.folder} is of knowledge base {about['fingerprint'][:12]} ({about['folder']}), not"
                f" of {knowledge.fingerprint[:12]} in {knowledge.folder}; give that base, or make a run of this one"
            )
        if k > self.k:
            raise UserError(
                f"top_k={k} but retrieval run {self.folder} has {self.k} hits a question; lower top_k, or make a run "
                f"with --top-k {k}"
            )

    def row(self, key: bytes) -> int | None:
        """A row of ``hits`` for a key of `queries.key_of`, None if there is none."""
        return self._rows.get(key)

    def ids(self, k: int) -> set[str]:
        """The ids of all items among the first ``k`` hits of a query."""
        return {
            id_
            for batch in self.hits.batches(["ids"])
            for found in batch.column("ids").to_pylist()
            for id_ in found[:k]
        }

    @cached_property
    def _rows(self) -> dict[bytes, int]:
        """A row of each key; those of other tasks with the same key hold the same."""
        keys = (key for batch in self.hits.batches(["key"]) for key in batch.column("key").to_pylist())
        return {key: row for row, key in enumerate(keys)}

    def _table(self, name: str) -> Shards:
        rows = self.manifest["files"][name][0]
        return Shards([self.folder / name], [rows], SCHEMAS[name], "make or copy the run again")
