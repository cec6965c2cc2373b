"""Text is linked to titles as rank_bm25's Okapi ranks them."""

import math
from collections import Counter

import numpy as np
import pytest
from hostile import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from comem_lmms.errors import UserError
from comem_lmms.linking import Postings, TitleIndex, wordpiece

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "bar",
    "##bar",
    "##ea",
    "oslo",
    "park",
    "house",
    "of",
    "##s",
    "a",
]
TITLES = ("Oslo", "Barbarea", "Park of Oslo", "House of Bar", "Oslo Park", "Parks", "Österreich")
IDS = tuple(f"Q{i}" for i in range(len(TITLES)))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture(scope="module")
def index(vocabulary):
    return TitleIndex.build(IDS, TITLES, vocabulary)


def okapi(corpus: list[list[int]], query: list[int]) -> list[float]:
    """The definition, title by title."""
    n, mean = len(corpus), sum(map(len, corpus)) / len(corpus)
    holders = Counter(token for title in corpus for token in set(title))
    idf = {token: math.log(n - held + 0.5) - math.log(held + 0.5) for token, held in holders.items()}
    floor = 0.25 * sum(idf.values()) / len(idf) if idf else 0.0
    idf = {token: floor if value < 0 else value for token, value in idf.items()}
    return [
        sum(
            idf.get(token, 0.0) * f * 2.5 / (f + 1.5 * (0.25 + 0.75 * len(title) / mean))
            for token in query
            if (f := title.count(token))
        )
        for title in corpus
    ]


def over(corpus: list[list[int]]) -> TitleIndex:
    """An index whose titles and queries are token ids, written out."""
    names = [" ".join(map(str, title)) for title in corpus]
    return TitleIndex(Postings.build(corpus, 8), [str(i) for i in range(len(corpus))], names, ids)


def ids(text: str) -> list[int]:
    return [int(token) for token in text.split()]


TOKENS = st.lists(st.integers(0, 7), max_size=6)


@settings(max_examples=300)
@given(st.lists(TOKENS, min_size=1, max_size=12).filter(any), TOKENS, st.integers(1, 12))
def test_scores_and_order_are_those_of_the_definition(corpus, query, k):
    scores = [round(score, 9) for score in okapi(corpus, query)]
    sharing = [i for i, title in enumerate(corpus) if set(title) & set(query)]
    expected = sorted(sharing, key=lambda i: (-scores[i], i))[:k]
    found = over(corpus).search(" ".join(map(str, query)), k)
    assert [one.score for one in found] == pytest.approx([scores[i] for i in expected], abs=2e-9)
    if len({scores[i] for i in sharing}) == len({round(scores[i], 7) for i in sharing}):
        assert [int(one.id) for one in found] == expected


def test_the_best_title(index):
    assert index.link("OSLO").title == "Oslo"
    assert index.link("a house, Oslo house").title == "House of Bar"
    assert index.link("barbarea").id == "Q1"


def test_of_equal_titles_the_first_one(vocabulary):
    same = TitleIndex.build(("Q9", "Q1", "Q5"), ("House", "Oslo", "oslo"), vocabulary)
    assert [one.id for one in same.search("Oslo")] == ["Q1", "Q5"]
    assert same.link("oslo oslo").id == "Q1"


@pytest.mark.parametrize("text", ["", "  \n", "\x00", "bea"])
def test_nothing_in_common_links_to_nothing(vocabulary, text):
    known = TitleIndex.build(IDS[:6], TITLES[:6], vocabulary)
    assert known.link(text) is None
    assert known.search(text) == []


def test_unknown_words_are_one_token(index):
    """As with BERT's own tokens, in which any unknown word is [UNK]."""
    assert index.link("Zürich").title == "Österreich"


def test_common_tokens_still_count_for_a_title():
    """A token in more than half of the titles gets a quarter of the mean weight instead of a negative one."""
    corpus = [[0, 1], [0, 2], [0, 3], [0, 4], [5]]
    assert min(okapi(corpus, [0])[:4]) > 0
    assert over(corpus).link("0").score == pytest.approx(okapi(corpus, [0])[0])


def test_the_index_is_plain_arrays_that_can_be_mapped(index, vocabulary, tmp_path):
    for name, array in index.postings._asdict().items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = Postings(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in Postings._fields))
    again = TitleIndex(mapped, IDS, TITLES, wordpiece(vocabulary)[0])
    for text in (*TITLES, "oslo bar house", "nothing"):
        assert again.search(text) == index.search(text)


@given(TEXTS)
def test_any_text_is_linked_or_not(index, text):
    scores = [one.score for one in index.search(text, 3)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) <= 3


def test_half_a_character_is_linked_to_nothing_in_particular(index):
    assert index.search("oslo \ud800") == index.search("oslo ?")


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist"):
        TitleIndex.build(IDS, TITLES, tmp_path / "nowhere.txt")


@pytest.mark.parametrize(("ids", "titles"), [((), ()), (("Q1",), ("a", "b"))])
def test_ids_and_titles_must_be_as_many(vocabulary, ids, titles):
    with pytest.raises(UserError, match="as many ids and titles"):
        TitleIndex.build(ids, titles, vocabulary)


def test_wordpiece_is_berts(fixtures):
    """Tokens known from bert-base-uncased."""
    path = fixtures / "bert-base-uncased" / "vocab.txt"
    tokens = path.read_text("utf-8").splitlines()
    tokenise, n_tokens = wordpiece(path)
    assert n_tokens == len(tokens) == 30522
    assert [tokens[i] for i in tokenise("Barbarea VULGARIS")] == ["bar", "##bar", "##ea", "vulgar", "##is"]
    assert [tokens[i] for i in tokenise("Café 北京")] == ["cafe", "北", "京"]
    assert tokenise("") == []
