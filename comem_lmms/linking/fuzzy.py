"""Linking by spelling, a linker of our own beside OVEN's: of the titles that BM25 finds, those spelt most alike."""

from collections.abc import Callable

from comem_lmms.errors import UserError
from comem_lmms.linking.index import Linked, TitleIndex

AMONG = 50  # of BM25's titles


def fuzzy(index: TitleIndex, text: str, k: int = 5) -> list[Linked]:
    """At most ``k`` of BM25's best ``AMONG`` titles, most alike first, scored 0 to 100; of equal ones BM25's better.

    rapidfuzz's ``WRatio`` of both in lower case without punctuation.
    """
    if k < 1:
        raise UserError(f"{k} titles were asked for; ask for one at least")
    from rapidfuzz.fuzz import WRatio
    from rapidfuzz.utils import default_process

    plain = default_process(text)
    alike = [one._replace(score=WRatio(plain, default_process(one.title))) for one in index.search(text, AMONG)]
    return sorted(alike, key=lambda one: -one.score)[:k]


LINKERS: dict[str, Callable[[TitleIndex, str, int], list[Linked]]] = {"bm25": TitleIndex.search, "fuzzy": fuzzy}
