"""OVEN's parts are combined as its authors do and as the paper did."""

import pytest
from hostile import TEXTS
from hypothesis import given

from comem_lmms.scoring.aggregate import Estimate, estimate, harmonic_estimate, harmonic_mean
from comem_lmms.scoring.oven import (
    final_estimate,
    final_score,
    link_query,
    paper_link_query,
    paper_part,
    part,
    part_estimate,
    score,
)


def rows(seen: list[float], unseen: list[float], kind: str = "query") -> list[tuple[str, float]]:
    return [(f"{kind}_val_seen", one) for one in seen] + [(f"{kind}_val_unseen", one) for one in unseen]


@pytest.mark.parametrize(
    ("prediction", "paper"),
    [
        *[("Barbarea vulgaris", ""), ("Barbarea vulgariss", "s"), ("Barbarea vulgaris (species)", "species")],
        *[(r"\boxed{Aynhoe Park}", "aynhoe park"), ("word " * 40, "word " * 10)],
    ],
)
def test_what_is_linked(prediction, paper):
    assert link_query(prediction) == prediction
    assert paper_link_query(prediction) == paper


def test_linked_to_nothing_is_wrong():
    assert [score("Q1", "Q1"), score("Q2", "Q1"), score(None, "Q1"), score("", "")] == [1.0, 0.0, 0.0, 1.0]


def test_a_part_is_the_harmonic_mean_of_its_splits():
    one = part(rows([1, 0, 0], [1, 0]))
    assert one.by_split == {"seen": 33.33, "unseen": 50.0}
    assert one.score == harmonic_mean(33.33, 50.0)
    assert paper_part(rows([1, 0, 0], [1, 0])).score == round(harmonic_mean(33.33, 50.0), 2)


def test_the_final_score_is_of_unrounded_parts_officially():
    query, entity = rows([1, 0, 0], [1] + [0] * 6), rows([1] + [0] * 12, [1] + [0] * 20, "entity")
    official = final_score(part(query), part(entity))
    assert official == round(harmonic_mean(part(query).score, part(entity).score), 2)
    assert final_score(paper_part(query), paper_part(entity)) == pytest.approx(official, abs=0.02)


def test_a_missing_split():
    """The official script stops; the paper's takes seen questions twice, and stops without any."""
    assert part(rows([1], [])).score is None
    assert part(rows([], [1])).score is None
    assert paper_part(rows([1, 0], [])).score == 50.0
    assert paper_part(rows([], [1])).score is None
    assert final_score(part(rows([1], [])), part(rows([1], [1]))) is None
    assert final_score(None, part(rows([1], [1]))) is None


def test_nothing_right_is_almost_zero():
    assert final_score(part(rows([0], [0])), part(rows([1], [1]))) == 0.0


@given(TEXTS)
def test_the_paper_links_at_most_50_characters(output):
    assert len(paper_link_query(output)) <= 50


def test_estimates_are_the_scores_as_fractions_with_nested_errors():
    query, entity = rows([1, 0, 0], [1] + [0] * 6), rows([1] + [0] * 12, [1] + [0] * 20, "entity")
    for to_part in (part, paper_part):
        whole = final_estimate([*query, *entity], to_part)
        assert whole.value == final_score(to_part(query), to_part(entity)) / 100
        assert part_estimate(query, to_part).value == to_part(query).score / 100
    unrounded = [
        harmonic_estimate(
            *(estimate([one for split, one in side if ("_seen" in split) is seen]) for seen in (True, False))
        )
        for side in (query, entity)
    ]
    assert whole.stderr == pytest.approx(harmonic_estimate(*unrounded).stderr, rel=1e-3)  # parts are rounded


def test_absent_parts_and_splits_leave_no_estimate():
    assert final_estimate(rows([1, 0], [1, 0])) == Estimate(None, None)
    assert part_estimate(rows([1, 0], [])) == part_estimate(rows([1], []), paper_part) == Estimate(None, None)
    assert part_estimate([]) == Estimate(None, None)
