"""Encyclopedic-VQA's task functions, for its training set: a document and an output in, scores out."""

from collections.abc import Sequence

from comem_lmms.tasks.common import Doc, complete

from comem_lmms.scoring import viquae
from comem_lmms.scoring.extraction import extract, is_unparsed

docs = complete("evqa_train", "train")


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Exact match with one of the answers, a simple rule of ours: the authors' is a model's judgement (BEM)."""
    return {
        "official": viquae.exact_match(extract(results[0]).text, doc["answers"]),
        "unparsed": float(is_unparsed(results[0])),
    }
