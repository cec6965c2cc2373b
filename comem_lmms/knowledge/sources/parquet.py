"""Parquet files of others: some columns, row by row, in little memory; what cannot be read is a reject."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from comem_lmms.errors import UserError, one_line
from comem_lmms.knowledge.candidates import DAMAGED, Reject

_BATCH = 64  # rows; they may hold images


def columns(file: Path) -> list[str]:
    """The names of a file's columns.

    Raises:
        UserError: it is not Parquet.
    """
    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is not a Parquet file ({one_line(error)}); remove it or give another path") from error


def rows(file: Path, start: int, wanted: Sequence[str]) -> Iterator[dict[str, Any] | Reject]:
    """The rows of a file from one on, None for columns that it does not have; a damaged one ends there."""
    try:
        table = pq.ParquetFile(file)
        names = [name for name in wanted if name in table.schema_arrow.names]
        sizes = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
        for group, first in enumerate(accumulate(sizes[:-1], initial=0)):
            if first + sizes[group] <= start:
                continue
            for batch in table.iter_batches(batch_size=_BATCH, row_groups=[group], columns=names):
                for at in range(max(0, start - first), len(batch)):
                    yield _row(batch, at, wanted, f"{file.name}, row {first + at}")
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        yield Reject(file.name, DAMAGED, one_line(error))


def _row(batch: pa.RecordBatch, at: int, wanted: Sequence[str], place: str) -> dict[str, Any] | Reject:
    try:
        return {**dict.fromkeys(wanted), **batch.slice(at, 1).to_pylist()[0]}
    except UnicodeDecodeError as error:  # Arrow does not check what is declared as text
        return Reject(place, "wrong_encoding", one_line(error))
