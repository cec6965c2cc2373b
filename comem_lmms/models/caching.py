"""Makes lmms-eval's response cache (``--use_cache``) safe and resumable for our models; no other model is touched.

As of 0.7.3 the cache (1) keys an answer on model_args, so a knowledge base that changed behind an unchanged path would
be answered from the old one; (2) stores nothing until the model has answered everything; (3) never looks into a run
that did not finish. For a model with a ``cache_fingerprint`` this module adds the fingerprint to the key, hands the
requests over in portions, and reads what unfinished runs left.

There is no public way: 0.7.3 makes the key when it builds the cache, of the names of the model and of its arguments
alone, and asks the model for nothing. What we use of the cache's own is listed in ``PRIVATE`` and held by
``test_lmms_eval_still_has_what_its_response_cache_is_extended_by``.
"""

import hashlib
import sqlite3
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any

from lmms_eval.caching.response_cache import ResponseCache
from loguru import logger

# The hash in the key, the folder of --use_cache, and the folder of this run in it.
PRIVATE = ("_model_fingerprint_hash", "_cache_root", "_run_dir")


def install() -> None:
    """Wraps ``ResponseCache.execute``, once."""
    original = ResponseCache.execute
    if getattr(original, "_comem_lmms", False):
        return

    @wraps(original)
    def execute(cache: Any, lm: Any, reqtype: str, requests: list[Any]) -> list[Any]:
        fingerprint = getattr(lm, "cache_fingerprint", None)
        if fingerprint is None or not requests:
            return original(cache, lm, reqtype, requests)
        _prepare(cache, fingerprint)
        portions = (requests[i : i + lm.portion] for i in range(0, len(requests), lm.portion))
        return [response for portion in portions for response in original(cache, lm, reqtype, portion)]

    execute._comem_lmms = True  # type: ignore[attr-defined]
    ResponseCache.execute = execute


def _prepare(cache: Any, fingerprint: str) -> None:
    key = hashlib.sha256(f"{cache._model_fingerprint_hash}|{fingerprint}".encode()).hexdigest()[:16]
    if getattr(cache, "_comem_lmms_key", None) == cache._model_fingerprint_hash:
        return
    cache._model_fingerprint_hash = cache._comem_lmms_key = key
    adopted = sum(_adopt(cache.db, path) for path in _unfinished(Path(cache._cache_root), Path(cache._run_dir)))
    if adopted:
        logger.info(f"resuming: {adopted} answers found in interrupted runs under {cache._cache_root}")


def _unfinished(root: Path, own: Path) -> list[Path]:
    """Databases of the runs that never got merged into the cache."""
    runs = [run for run in (root / "runs").glob("*") if run != own and not (run / ".merged").exists()]
    return sorted(database for run in runs for database in run.glob("rank_*.db"))


def _adopt(database: sqlite3.Connection, path: Path) -> int:
    """Copies the answers of another run; their keys keep answers of other models and data apart."""
    before = database.total_changes
    try:
        with closing(sqlite3.connect(path, timeout=10)) as other:
            rows = other.execute("SELECT * FROM responses").fetchall()
    except sqlite3.Error as error:
        logger.warning(f"cannot read the answers of an interrupted run in {path} ({error}); they will be made again")
        return 0
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        database.executemany(f"INSERT OR IGNORE INTO responses VALUES ({marks})", rows)
        database.commit()
    return database.total_changes - before
