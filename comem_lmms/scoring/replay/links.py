"""OVEN: rows with a prediction and the titles that it was linked to in, how ours is linked out."""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from comem_lmms.linking import Entity, TitleIndex
from comem_lmms.scoring import oven
from comem_lmms.scoring.replay.recorded import DIGITS, Compared, Group, Row, by, name, read

LINKS, CORPUS = "oven.jsonl", "oven_mini_corpus.jsonl"


def compare_links(folder: Path, vocabulary: Path) -> Iterator[Group]:
    """The text that is linked, the best titles with their scores, and whether the entity is the right one.

    Only rows that say ``top1_tie`` are exempt, and only their entity.
    """
    corpus = read(folder / CORPUS)
    index = TitleIndex.of((Entity(row["wikidata_id"], row["wikipedia_title"]) for row in corpus), vocabulary)
    queries = {"official": oven.link_query, "reference": oven.paper_link_query}
    for scorer, rows in by("scorer", read(folder / LINKS)).items():
        if scorer not in queries:
            yield Group(LINKS, scorer, [Compared(name(row), row["score"], "unknown scorer") for row in rows])
            continue
        yield Group(LINKS, scorer, [_score_of_link(row, index, queries[scorer]) for row in rows])
        yield Group(LINKS, f"{scorer}, its titles", [_link(row, index, queries[scorer]) for row in rows])


def _score_of_link(row: Row, index: TitleIndex, query: Callable[[str], str]) -> Compared:
    linked = index.link(query(row["prediction"]))
    expected = {"pred_entity_id": row["pred_entity_id"], "score": row["score"]}
    ours = {"pred_entity_id": linked and linked.id, "score": oven.score(linked and linked.id, row["entity_id"])}
    return Compared(name(row), expected, ours, "tied at the top, broken arbitrarily" if row["top1_tie"] else None)


def _link(row: Row, index: TitleIndex, query: Callable[[str], str]) -> Compared:
    """The query and the best scores; the ids too above the last score, at which others may be tied.

    The original fills up with titles of score 0, which share nothing with the query; we have fewer.
    """
    text, scores = query(row["prediction"]), row["bm25_top5_scores"]
    linked = index.search(text, len(scores))
    ours = [one.score for one in linked] + [0.0] * (len(scores) - len(linked))
    sure = [score for score in ours if score > ours[-1] + DIGITS]
    expected = {"query": row["bm25_query"], "scores": scores, "ids": _by_score(scores, row["bm25_top5"], len(sure))}
    got = {"query": text, "scores": ours, "ids": _by_score(ours, [[one.title, one.id] for one in linked], len(sure))}
    return Compared(name(row), expected, got)


def _by_score(scores: list[float], titles: list[list[str]], n: int) -> list[list[list[str]]]:
    """The first ``n`` titles in groups of equal score, each sorted: the original's order within them is arbitrary."""
    ranked = zip(scores[:n], titles[:n], strict=True)
    return [sorted(title for _, title in group) for _, group in groupby(ranked, lambda pair: round(pair[0], 5))]
