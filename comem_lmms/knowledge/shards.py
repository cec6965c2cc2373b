"""Tables that are spread over Parquet files: the number of a row in, the row out.

Only what is asked for is read, a row group at a time, so a table may be far larger than memory.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from comem_lmms.errors import UserError, one_line

OPEN_FILES = 32
KEPT_BYTES = 1 << 27  # of row groups


class _File(NamedTuple):
    parquet: pq.ParquetFile
    starts: list[int]  # first row of each row group, and the end


class Shards:
    """Rows by number over the files of a table.

    Args:
        files: in order.
        sizes: rows of each.
        schema: what the columns must be.
        remedy: what to do about a damaged file.
    """

    def __init__(self, files: Sequence[Path], sizes: Sequence[int], schema: pa.Schema, remedy: str) -> None:
        self._paths, self._schema, self._remedy = list(files), schema, remedy
        self._starts = [0, *accumulate(sizes)]
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._lock = Lock()

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(self._schema.names)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> dict[str, Any]:
        """A row, its columns by name.

        Raises:
            UserError: the file is damaged.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        shard = bisect_right(self._starts, number) - 1
        with self._lock:
            starts = self._file(shard).starts
            group = bisect_right(starts, number - self._starts[shard]) - 1
            table = self._group(shard, group)
        return table.slice(number - self._starts[shard] - starts[group], 1).to_pylist()[0]

    def batches(self, columns: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Some columns of the rows from ``start`` to before ``stop``, in order."""
        stop = len(self) if stop is None else stop
        for shard, path in enumerate(self._paths):
            here, end = self._starts[shard], self._starts[shard + 1]
            if end <= start or here >= stop:
                continue
            with self._lock:
                starts = self._file(shard).starts
            groups = [i for i, first in enumerate(starts[:-1]) if here + first < stop and here + starts[i + 1] > start]
            here += starts[groups[0]]
            with self._reading(path):
                reader = self._opened(path)
                for batch in reader.iter_batches(batch_size=1024, row_groups=groups, columns=list(columns)):
                    first, last = max(start - here, 0), min(stop - here, len(batch))
                    if first < last:
                        yield batch.slice(first, last - first)
                    here += len(batch)

    def _group(self, shard: int, group: int) -> pa.Table:
        name = (shard, group)
        if name not in self._groups:
            with self._reading(self._paths[shard]):
                self._groups[name] = self._file(shard).parquet.read_row_group(group)
            while len(self._groups) > 1 and sum(table.nbytes for table in self._groups.values()) > KEPT_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(name)
        return self._groups[name]

    def _file(self, shard: int) -> _File:
        if shard not in self._open:
            path = self._paths[shard]
            with self._reading(path):
                parquet = self._opened(path)
                if not all(name in parquet.schema_arrow.names for name in self._schema.names):
                    raise pa.ArrowInvalid(f"columns {', '.join(parquet.schema_arrow.names)}")
                groups = parquet.metadata.num_row_groups
                sizes = [parquet.metadata.row_group(i).num_rows for i in range(groups)]
                self._open[shard] = _File(parquet, [0, *accumulate(sizes)])
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _opened(self, path: Path) -> pq.ParquetFile:
        return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Says in one line what Arrow could not read."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is damaged ({one_line(error)}); {self._remedy}") from error
