"""OVEN's task functions: a document and an output in, whether it is linked to the right entity out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from comem_lmms.tasks.common import Doc, combined, complete, mean, to_combine

from comem_lmms import data
from comem_lmms.folders import folder
from comem_lmms.linking import LINKERS, shared
from comem_lmms.scoring import oven
from comem_lmms.scoring.extraction import extract, is_unparsed

TITLES = data.titles()  # when the task is read, so that their lack is noticed before a model is loaded
TO_PARTS = {"official": oven.part, "paper": oven.paper_part, "fuzzy": oven.part}
SPLITS = ("seen", "unseen")


def _metrics(parts: Sequence[str]) -> list[dict[str, Any]]:
    """The metrics with what is below them: for parts their scores and accuracies, else the accuracies of one part."""
    entries: list[dict[str, Any]] = []
    for metric, to_part in TO_PARTS.items():
        whole = oven.final_estimate if parts else oven.part_estimate
        entries += combined(metric, partial(whole, to_part=to_part))
        for part in parts:
            entries += combined(f"{metric}_{part}", partial(oven.part_estimate, to_part=to_part))
        for prefix in [f"{metric}_{part}" for part in parts] or [metric]:
            entries += [entry for split in SPLITS for entry in mean(f"{prefix}_{split}")]
    return [*entries, *mean("unparsed", higher_is_better=False)]


METRICS, PART_METRICS = _metrics(("query", "entity")), _metrics(())


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """All metrics over queries and entities: the final score, that of the document's part, and its accuracy."""
    part, split = oven.part_name(doc["data_split"]), _split(doc)
    scores: dict[str, Any] = {}
    for metric, score in _scores(doc, results[0]).items():
        item = (doc["data_split"], score)
        scores |= {
            **to_combine(metric, item),
            **to_combine(f"{metric}_{part}", item),
            f"{metric}_{part}_{split}": score,
        }
    return {**scores, "unparsed": float(is_unparsed(results[0]))}


def process_part(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """All metrics where all documents are of one part: its score and the accuracy of the document's split."""
    scores: dict[str, Any] = {}
    for metric, score in _scores(doc, results[0]).items():
        scores |= {**to_combine(metric, (doc["data_split"], score)), f"{metric}_{_split(doc)}": score}
    return {**scores, "unparsed": float(is_unparsed(results[0]))}


def _split(doc: Doc) -> str:
    return SPLITS[0] if oven.is_seen(doc["data_split"]) else SPLITS[1]


def _scores(doc: Doc, output: str) -> dict[str, float]:
    """Officially the whole prediction is linked; the answer in it, here. ``fuzzy`` goes by spelling besides."""
    answer = oven.link_query(extract(output).text)
    linked = {
        "official": _link(answer),
        "paper": _link(oven.paper_link_query(output)),
        "fuzzy": _link(answer, "fuzzy"),
    }
    return {metric: oven.score(found, doc["entity_id"]) for metric, found in linked.items()}


def _link(text: str, linker: str = "bm25") -> str | None:
    """The Wikidata id of the best title for a text; None for a text that shares no token with any."""
    found = LINKERS[linker](shared(TITLES), text, 1)
    return found[0].id if found else None


def _all_docs(name: str) -> Callable[[Any], Any]:
    """Queries and entities as one set of documents, which share the files that they lie in."""

    def process_docs(queries: Any) -> Any:
        from datasets import concatenate_datasets, load_from_disk

        entities = load_from_disk(folder(name))["entity"]
        return concatenate_datasets([complete(name, "query")(queries), complete(name, "entity")(entities)])

    return process_docs


docs, paper_docs = _all_docs("oven"), _all_docs("oven_paper")
query_docs, entity_docs = complete("oven", "query"), complete("oven", "entity")
paper_query_docs, paper_entity_docs = complete("oven_paper", "query"), complete("oven_paper", "entity")
