"""What documents contribute to a metric in, the sample behind the metric's value out."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from comem_lmms.report import statistics
from comem_lmms.report.statistics import Sample, Statistic
from comem_lmms.scoring.aggregate import grouped
from comem_lmms.scoring.infoseek import is_unseen_question
from comem_lmms.scoring.oven import is_seen, part_name

_OVEN = re.compile(r"(query|entity)_.*(seen|unseen)")
_ROUNDING = 2e-4  # of the authors' scripts, which round parts of a result before they combine them


def sample_of(items: Mapping[int, Any], stated: float | None) -> Sample | None:
    """The scores by question, or None unless they give the value that lmms-eval states.

    Args:
        items: by document; a score, or a list of what the score belongs to and the score, of which ours have three
            kinds: InfoSeek's (split, question type, score), OVEN's (split, score) and CVQA's (subset, score).
        stated: the value of the metric, a fraction.

    So a metric that is made of its items in a way not known here is never tested. Two methods that were asked the same
    documents get groups of the same questions in the same order.
    """
    rows = [_split(items[number]) for number in sorted(items)]
    known = [row for row in rows if row is not None]
    if stated is None or not known or len(known) < len(rows):
        return None
    groups = grouped(known)
    names = sorted(groups)
    if (statistic := _statistic(names)) is None:
        return None
    sample = Sample([np.array(groups[name]) for name in names], statistic)
    return sample if abs(sample.value - stated) < _ROUNDING else None


def points(item: Any) -> float | None:
    """The score in an item; None where it is none that is known here."""
    row = _split(item)
    return None if row is None else row[1]


def _split(item: Any) -> tuple[str, float] | None:
    if isinstance(item, int | float):
        return "", float(item)
    if not isinstance(item, list) or not 2 <= len(item) <= 3 or not isinstance(item[-1], int | float):
        return None
    name = str(item[0])
    if len(item) == 3:
        return f"infoseek {is_unseen_question(name)}", float(item[-1])
    if _OVEN.fullmatch(name):
        return f"oven {part_name(name)} {is_seen(name)}", float(item[-1])
    return f"subset {name}", float(item[-1])


def _statistic(names: Sequence[str]) -> Statistic | None:
    """Names are sorted, so OVEN's entities come before its queries, each with two splits."""
    kind = names[0].partition(" ")[0]
    if any(name.partition(" ")[0] != kind for name in names):
        return None
    of_number = {
        "": {1: statistics.mean},
        "infoseek": {2: statistics.harmonic},
        "oven": {2: statistics.harmonic, 4: statistics.harmonic_of_two},
        "subset": {len(names): statistics.macro},
    }
    return of_number[kind].get(len(names))
