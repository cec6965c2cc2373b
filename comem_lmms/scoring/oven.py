"""OVEN: the text that is linked to a Wikipedia title, and the seen and unseen accuracies made one score.

The official rules are oven_eval.py and run_bm25_query.py of edchengg/oven_eval, the paper's those of the same names in
WenyiWU0111/CoMEM. Linking itself is ``comem_lmms.linking``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from comem_lmms.scoring.aggregate import Estimate, estimate, harmonic_estimate, harmonic_mean, percent_by
from comem_lmms.scoring.normalise import paper_answer


class Part(NamedTuple):
    """Accuracies of one part (queries or entities) by split, in percent, and their harmonic mean, not rounded.

    The score is None where a split that the script needs has no rows: there the script stops with a KeyError.
    """

    by_split: dict[str, float]
    score: float | None


def score(pred_entity_id: str | None, entity_id: str) -> float:
    """1.0 if the prediction is linked to the right entity; linked to nothing it is wrong."""
    return float(pred_entity_id is not None and pred_entity_id == entity_id)


def link_query(prediction: str) -> str:
    """The text that is linked: officially the prediction as it is."""
    return prediction


def paper_link_query(output: str) -> str:
    """The text that the paper links: its form of the answer, cut to 50 characters.

    Many titles become empty by it ("Barbarea vulgaris" ends in "is"), and an empty text matches all titles equally.
    """
    return paper_answer(output)[:50]


def part(rows: Iterable[tuple[str, float]]) -> Part:
    """Pairs of ``data_split`` and score in. Both splits must have rows."""
    by_split = _by_split(rows)
    both = [by_split[name] for name in ("seen", "unseen") if name in by_split]
    return Part(by_split, harmonic_mean(*both) if len(both) == 2 else None)


def paper_part(rows: Iterable[tuple[str, float]]) -> Part:
    """As the paper's script: rounded at once, and seen questions stand in for absent unseen ones."""
    by_split = _by_split(rows)
    if "seen" not in by_split:
        return Part(by_split, None)
    return Part(by_split, round(harmonic_mean(by_split["seen"], by_split.get("unseen", by_split["seen"])), 2))


def final_score(query: Part | None, entity: Part | None) -> float | None:
    """The harmonic mean of the two parts, with two digits; None unless both have a score.

    The official one is of the unrounded scores, the paper's of rounded ones, which ``paper_part`` gives.
    """
    scores = [one.score for one in (query, entity) if one is not None and one.score is not None]
    return round(harmonic_mean(*scores), 2) if len(scores) == 2 else None


def is_seen(data_split: str) -> bool:
    """Whether a row's entity was seen in training."""
    return "_seen" in data_split


def part_name(data_split: str) -> Literal["query", "entity"]:
    """The part that a row belongs to, by a name like "query_val_seen"."""
    return "query" if data_split.startswith("query") else "entity"


Rows = Sequence[tuple[str, float]]
ToPart = Callable[[Iterable[tuple[str, float]]], Part]


def part_estimate(rows: Rows, to_part: ToPart = part) -> Estimate:
    """The score of a part as a fraction, with its standard error; nothing if the seen or the unseen have no rows.

    Args:
        rows: pairs of ``data_split`` and score.
        to_part: `part` or `paper_part`, which round differently.
    """
    seen, unseen = (estimate([one for split, one in rows if is_seen(split) is kind]) for kind in (True, False))
    both, score = harmonic_estimate(seen, unseen), to_part(rows).score
    return both if both.value is None or score is None else both._replace(value=score / 100)


def final_estimate(rows: Rows, to_part: ToPart = part) -> Estimate:
    """The final score as a fraction, with its standard error; nothing if a part has no score. As `part_estimate`."""
    query, entity = ([row for row in rows if part_name(row[0]) == name] for name in ("query", "entity"))
    both = harmonic_estimate(part_estimate(query, to_part), part_estimate(entity, to_part))
    score = final_score(to_part(query), to_part(entity))
    return both if both.value is None or score is None else both._replace(value=score / 100)


def _by_split(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    return percent_by(("seen" if is_seen(split) else "unseen", one) for split, one in rows)
