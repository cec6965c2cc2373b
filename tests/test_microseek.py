"""MicroSeek is what it says: a pure function of its seed whose answers are in its knowledge base alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.random import RandomState

from comem_lmms.cli import main
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.microseek import world
from comem_lmms.microseek.build import build, write_realms
from comem_lmms.microseek.emblem import SIZE, draw, portrait, random_emblem, snapshot
from comem_lmms.microseek.words import ATTRIBUTES, NAME_HEADS, NAME_TAILS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def realms():
    return world.make_realms(world.SEED, world.N_REALMS)


def test_shipped_files_are_what_the_seed_gives(tmp_path, knowledge, questions):
    import datasets

    made = build(tmp_path / "kb", tmp_path / "test.parquet")
    assert made.fingerprint == knowledge.fingerprint
    tables = ["items/00000.parquet", "images/00000.parquet"]
    pairs = [(tmp_path / "kb" / name, knowledge.folder / name) for name in tables]
    pairs.append((tmp_path / "test.parquet", ROOT / "tasks/microseek/test.parquet"))
    for ours, theirs in pairs:
        same_writer = pq.read_metadata(ours).created_by == pq.read_metadata(theirs).created_by
        assert not same_writer or ours.read_bytes() == theirs.read_bytes()
    for lookup in (tmp_path / "kb/lookups").iterdir():
        assert lookup.read_bytes() == (knowledge.folder / "lookups" / lookup.name).read_bytes()
    again = datasets.load_dataset("parquet", data_files=str(tmp_path / "test.parquet"), split="train")
    assert len(again) == len(questions)
    for ours, theirs in zip(again, questions, strict=True):
        assert {k: v for k, v in ours.items() if k != "image"} == {k: v for k, v in theirs.items() if k != "image"}
        assert (np.asarray(ours["image"]) == np.asarray(theirs["image"])).all()


def test_the_base_is_what_the_command_makes_of_its_rows(tmp_path, knowledge):
    write_realms(tmp_path / "realms.parquet", world.make_realms(world.SEED, world.N_REALMS))
    assert main(["kb", "build", "--source", str(tmp_path / "realms.parquet"), "--out", str(tmp_path / "kb")]) == 0
    assert KnowledgeBase.open(tmp_path / "kb").fingerprint == knowledge.fingerprint


def test_another_seed_is_another_world(knowledge, tmp_path):
    a, b = world.make_realms(1, 8), world.make_realms(2, 8)
    assert [r.emblem for r in a] != [r.emblem for r in b]
    assert a == world.make_realms(1, 8)


def test_size(realms, questions):
    assert len(realms) >= 1000
    assert len(questions) >= 300
    assert len({q["item_id"] for q in questions}) >= 100


def test_closed_sets():
    assert len(ATTRIBUTES) == 12
    values = [value for attribute in ATTRIBUTES for value in attribute.values]
    assert all(len(set(attribute.values)) >= 40 for attribute in ATTRIBUTES)
    assert len({value.casefold() for value in values}) == len(values)
    assert len({head + tail for head in NAME_HEADS for tail in NAME_TAILS}) == len(NAME_HEADS) * len(NAME_TAILS)


def test_realms_differ_in_name_and_emblem(realms):
    assert len({realm.name for realm in realms}) == len(realms)
    emblems = [realm.emblem for realm in realms]
    for i in RandomState(0).permutation(len(emblems))[:100]:
        assert all(emblems[i].distance(e) >= world.MIN_DISTANCE for j, e in enumerate(emblems) if j != i)


def test_every_answer_is_on_the_page_and_on_few_others(knowledge, questions):
    pages = {knowledge.row(i).id: knowledge.row(i).text for i in range(len(knowledge))}
    for q in questions:
        assert q["answer"] in pages[q["item_id"]]
    on = [sum(q["answer"] in page for page in pages.values()) / len(pages) for q in questions]
    assert np.mean(on) < 0.04  # about 1 in 40: knowing the wrong page is no better than guessing


def test_questions_do_not_give_the_answer_away(questions):
    """A guess by attribute alone, the best there is without the page, is at chance."""
    assert len({q["question"] for q in questions}) == 12
    best = Counter((q["attribute"], q["answer"]) for q in questions)
    guess = sum(max(n for (a, _), n in best.items() if a == attribute.key) for attribute in ATTRIBUTES)
    assert guess / len(questions) < 0.12  # even an oracle that knows the most frequent answer of each attribute
    assert set(Counter(q["attribute"] for q in questions).values()) == {32}


def test_questions_show_another_view(knowledge, questions):
    for q in questions[:50]:
        shown, known = np.asarray(q["image"], dtype=int), np.asarray(knowledge[knowledge.find(q["item_id"])].image)
        assert shown.shape == known.shape == (SIZE, SIZE, 3)
        assert abs(shown - known).mean() > 5


def test_training_worlds_share_nothing_with_the_test_world(realms):
    from comem_lmms.training.micro.common import training_realms

    others = training_realms(1, 300)
    assert not {r.name for r in realms} & {r.name for r in others}
    assert not {r.emblem for r in realms} & {r.emblem for r in others}
    with pytest.raises(ValueError, match="only 1280 names are free"):
        training_realms(1, 1281)


@pytest.mark.parametrize("seed", range(5))
def test_drawing(seed):
    rng = RandomState(seed)
    emblem = random_emblem(rng)
    plain, noisy = draw(emblem, portrait(rng)), draw(emblem, snapshot(rng))
    assert plain.dtype == noisy.dtype == np.uint8
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) >= 3  # ground, field, charge
    assert (plain[0, 0] == plain[0, -1]).all()


def test_distance_is_one_of_a_metric():
    rng = RandomState(0)
    a, b, c = (random_emblem(rng) for _ in range(3))
    assert a.distance(a) == 0
    assert a.distance(b) == b.distance(a)
    assert a.distance(c) <= a.distance(b) + b.distance(c)


def test_build_of_another_seed(tmp_path, knowledge):
    made = build(tmp_path / "kb", tmp_path / "q.parquet", seed=7)
    assert made.fingerprint != knowledge.fingerprint
    assert KnowledgeBase.open(tmp_path / "kb").fingerprint == made.fingerprint
