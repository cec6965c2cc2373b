"""What was recorded and what we get: rows of a folder of recorded scores, and how they compare."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from comem_lmms.errors import UserError

Row = dict[str, Any]

DIGITS = 1e-6  # as many as recorded scores have; what single functions gave is recorded in full


class Compared(NamedTuple):
    """One row: what was recorded and what we get, unless there is a reason not to compare them."""

    name: str
    expected: Any
    ours: Any
    exempt: str | None = None
    tolerance: float = DIGITS

    @property
    def agrees(self) -> bool:
        """Whether there is nothing to object to."""
        return self.exempt is not None or same(self.expected, self.ours, self.tolerance)

    @property
    def unparsed(self) -> bool:
        """Whether the original told no answer, and neither do we."""
        return self.exempt is None and self.expected is None and self.ours is None


class Group(NamedTuple):
    """The rows of one file and scorer, and what is to be said of them."""

    file: str
    scorer: str
    rows: list[Compared]
    note: str | None = None

    @property
    def wrong(self) -> list[Compared]:
        """The rows that differ."""
        return [row for row in self.rows if not row.agrees]

    @property
    def reasons(self) -> Counter[str]:
        """Why rows were not compared, and how many."""
        return Counter(row.exempt for row in self.rows if row.exempt is not None)

    def __str__(self) -> str:
        exempt = self.reasons.total()
        notes = self.reasons + Counter({"unparsed, as recorded": sum(row.unparsed for row in self.rows)})
        reasons = "; ".join([*(f"{n} {reason}" for reason, n in notes.items()), *([self.note] if self.note else [])])
        return (
            f"{self.file:39} {self.scorer:44} {len(self.rows):6} {len(self.rows) - exempt:8} {len(self.wrong):10} "
            f"{exempt:6}  {reasons}"
        ).rstrip()


def same(expected: Any, ours: Any, tolerance: float = DIGITS) -> bool:
    """Equal up to the tolerance, within lists and dictionaries too; True is 1."""
    if isinstance(expected, Mapping) and isinstance(ours, Mapping):
        return expected.keys() == ours.keys() and all(same(expected[key], ours[key], tolerance) for key in expected)
    if isinstance(expected, list | tuple) and isinstance(ours, list | tuple):
        return len(expected) == len(ours) and all(map(partial(same, tolerance=tolerance), expected, ours))
    if isinstance(expected, int | float) and isinstance(ours, int | float):
        return math.isclose(expected, ours, rel_tol=1e-9, abs_tol=tolerance)
    return type(expected) is type(ours) and expected == ours


def read(path: Path) -> list[Row]:
    """The rows of a JSON-lines file. Lines end at line feeds alone: texts hold other line separators.

    Raises:
        UserError: a line is no JSON object.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}, line {number}: no JSON object ({error}); copy the file again") from error
    return rows


def by(field: str, rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each value of a field, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get(field)), []).append(row)
    return groups


def name(row: Row) -> str:
    """What a difference calls a row."""
    return f"id {row.get('id')}"
