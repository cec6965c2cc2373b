"""Text is linked to titles as rank_bm25's Okapi ranks them."""

import math
from collections import Counter

import numpy as np
import pytest
from hostile import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from comem_lmms.errors import UserError
from comem_lmms.linking import LINKERS, Entity, TitleIndex, searching
from comem_lmms.linking.postings import PostingsBuilder
from comem_lmms.linking.searching import search
from comem_lmms.linking.wordpiece import WordPiece

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


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture(scope="module")
def index(vocabulary):
    return TitleIndex.of(entities(TITLES), vocabulary)


def entities(titles) -> list[Entity]:
    return [Entity(f"Q{i}", title) for i, title in enumerate(titles)]


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


def over(corpus: list[list[int]], n_tokens: int = 8) -> TitleIndex:
    """An index whose titles and queries are token ids, written out."""
    builder = PostingsBuilder(n_tokens)
    for start in range(0, len(corpus), 5):
        builder.add(corpus[start : start + 5])
    names = [" ".join(map(str, title)) for title in corpus]
    return TitleIndex(builder.finish(), [str(i) for i in range(len(corpus))], names, ids)


def ids(text: str) -> list[int]:
    return [int(token) for token in text.split()]


TOKENS = st.lists(st.integers(0, 7), max_size=6)


@settings(max_examples=300)
@given(st.lists(TOKENS, min_size=1, max_size=12).filter(any), TOKENS, st.integers(1, 12))
def test_scores_and_order_are_those_of_the_definition(corpus, query, k):
    check(over(corpus), corpus, query, k)


def check(index: TitleIndex, corpus: list[list[int]], query: list[int], k: int) -> None:
    """A search gives what the definition does."""
    scores = [round(score, 9) for score in okapi(corpus, query)]
    sharing = [i for i, title in enumerate(corpus) if set(title) & set(query)]
    expected = sorted(sharing, key=lambda i: (-scores[i], i))[:k]
    found = index.search(" ".join(map(str, query)), k)
    assert [one.score for one in found] == pytest.approx([scores[i] for i in expected], abs=2e-9)
    if len({scores[i] for i in sharing}) == len({round(scores[i], 7) for i in sharing}):
        assert [int(one.id) for one in found] == expected


@st.composite
def many_tokens(draw):
    """Titles of few and of many tokens, and a query of many, rare and common ones and repeated ones."""
    rng, n_tokens = draw(st.randoms(use_true_random=False)), draw(st.sampled_from((4, 12, 60)))
    chances = [1 / (token + 1) for token in range(n_tokens)]
    longest = draw(st.sampled_from((2, 5, 24)))
    lengths = [rng.randint(0, longest) for _ in range(draw(st.integers(1, 80)))] + [1]
    corpus = [rng.choices(range(n_tokens), chances, k=length) for length in lengths]
    query = rng.choices(range(n_tokens), chances if draw(st.booleans()) else None, k=draw(st.integers(1, 50)))
    return n_tokens, corpus, query


@settings(max_examples=400, deadline=None)
@given(many_tokens(), st.integers(1, 9), st.integers(0, 30), st.integers(0, 2))
def test_nothing_is_missed_for_many_tokens(drawn, k, rare, sample):
    """However few tokens are taken for rare ones, whose titles are all looked at, as over millions of titles."""
    n_tokens, corpus, query = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "RARE", rare)
        patch.setattr(searching, "SAMPLE", sample)
        check(over(corpus, n_tokens), corpus, query, k)


@settings(max_examples=300)
@given(st.lists(TOKENS, min_size=1, max_size=12).filter(any), TOKENS)
def test_the_best_one_is_rank_bm25s(corpus, query):
    """Where its best score is above 0, which it gives to titles that share nothing, and no two are nearly equal."""
    scores = BM25Okapi(corpus).get_scores(query).round(9)
    if scores.max() > 0 and len(set(scores)) == len(set(scores.round(7))):
        linked = over(corpus).link(" ".join(map(str, query)))
        assert int(linked.id) == scores.argmax()
        assert linked.score == pytest.approx(scores.max(), abs=2e-9)


def test_nothing_is_missed_where_most_is_left_out():
    """Tokens as common as in a language, so that most documents of a query are never looked at."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, 2001)
    lengths = rng.integers(0, 9, 30_000)
    corpus = np.split(rng.choice(2000, lengths.sum(), p=chances / chances.sum()), lengths.cumsum()[:-1])
    builder = PostingsBuilder(2000)
    builder.add(corpus)
    postings, okapi = builder.finish(), BM25Okapi([title.tolist() for title in corpus])
    for length in (1, 2, 3, 5, 8, 30):
        for query in rng.choice(2000, (4, length), p=chances / chances.sum()):
            expected = okapi.get_scores(query.tolist()).round(9)
            order = np.lexsort((np.arange(len(corpus)), -expected))
            for k in (1, 7, 60):
                documents, scores = search(postings, query.tolist(), k)
                assert scores == pytest.approx(expected[order[: len(documents)]], abs=2e-9)
                if np.diff(np.unique(expected[order[: k + 1]])).min(initial=1.0) > 1e-8:
                    assert documents.tolist() == order[: len(documents)].tolist()
                assert len(documents) == min(k, np.count_nonzero(expected))


def test_the_best_title(index):
    assert index.link("OSLO").title == "Oslo"
    assert index.link("a house, Oslo house").title == "House of Bar"
    assert index.link("barbarea").id == "Q1"


def test_of_equal_titles_the_first_one(vocabulary):
    same = TitleIndex.of([Entity("Q9", "House"), Entity("Q1", "Oslo"), Entity("Q5", "oslo")], vocabulary)
    assert [one.id for one in same.search("Oslo")] == ["Q1", "Q5"]
    assert same.link("oslo oslo").id == "Q1"


@pytest.mark.parametrize("text", ["", "  \n", "\x00", "bea"])
def test_nothing_in_common_links_to_nothing(vocabulary, text):
    known = TitleIndex.of(entities(TITLES[:6]), vocabulary)
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


@given(TEXTS)
def test_any_text_is_linked_or_not(index, text):
    scores = [one.score for one in index.search(text, 3)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) <= 3


def test_half_a_character_is_linked_to_nothing_in_particular(index):
    assert index.search("oslo \ud800") == index.search("oslo ?")


def test_fuzzy_takes_the_title_that_is_spelt_most_alike(vocabulary):
    """BM25 knows only whole tokens; of what it finds, the other linker takes what looks like the text."""
    many = TitleIndex.of(entities(("Bars Barbar", "Barbar", "Oslo", "House", "Park")), vocabulary)
    text = "Barbars"
    assert many.link(text).title == "Bars Barbar"
    first, *others = LINKERS["fuzzy"](many, text, 2)
    assert first.title == "Barbar"
    assert 100 >= first.score > others[0].score >= 0
    assert LINKERS["bm25"](many, text, 3) == many.search(text, 3)
    assert LINKERS["fuzzy"](many, "", 5) == []


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist"):
        TitleIndex.of(entities(TITLES), tmp_path / "nowhere.txt")
    (tmp_path / "words.txt").write_text("[CLS]\n[SEP]\noslo\n")
    with pytest.raises(UserError, match=r"words\.txt has no \[UNK\]"):
        TitleIndex.of(entities(TITLES), tmp_path / "words.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read the vocabulary .*bytes\.txt"):
        TitleIndex.of(entities(TITLES), tmp_path / "bytes.txt")


def test_an_index_of_nothing_and_a_search_for_nothing_are_refused(index, vocabulary):
    with pytest.raises(UserError, match="no title to index"):
        TitleIndex.of([], vocabulary)
    with pytest.raises(UserError, match="0 titles were asked for"):
        index.search("oslo", 0)


def test_wordpiece_is_berts(fixtures):
    """Tokens known from bert-base-uncased."""
    path = fixtures / "bert-base-uncased" / "vocab.txt"
    tokens = path.read_text("utf-8").splitlines()
    tokenise = WordPiece(path)
    assert tokenise.n_tokens == len(tokens) == 30522
    assert [tokens[i] for i in tokenise("Barbarea VULGARIS")] == ["bar", "##bar", "##ea", "vulgar", "##is"]
    assert [tokens[i] for i in tokenise("Café 北京")] == ["cafe", "北", "京"]
    assert tokenise("") == []
