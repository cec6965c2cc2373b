"""ViQuAE's task functions: a document and an output in, scores out."""

from collections.abc import Sequence

from comem_lmms.tasks.common import Doc, complete

from comem_lmms.scoring import viquae
from comem_lmms.scoring.extraction import extract, is_unparsed

docs = complete("viquae", "test")


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Exact match, F1 of words, and the paper's comparison."""
    answer = extract(results[0]).text
    return {
        "official": viquae.exact_match(answer, doc["answers"]),
        "official_f1": viquae.f1(answer, doc["answers"]),
        "paper": viquae.paper_score(results[0], doc["answers"]),
        "unparsed": float(is_unparsed(results[0])),
    }
