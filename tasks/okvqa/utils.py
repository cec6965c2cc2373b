"""OK-VQA's task functions: a document and an output in, scores out."""

from collections import Counter
from collections.abc import Sequence

from comem_lmms.tasks.common import Doc, complete

from comem_lmms import data
from comem_lmms.scoring import vqa
from comem_lmms.scoring.extraction import extract, is_unparsed

FROM_HUB = {"revision": data.revision("okvqa")}  # what was prepared, else the pinned commit, else the newest
docs, train_docs = complete("okvqa", "val2014"), complete("okvqa_train", "train")


def doc_to_target(doc: Doc) -> str:
    """The answer that most people gave."""
    return Counter(doc["answers"]).most_common(1)[0][0]


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """VQA's soft accuracy by the answers as they are, and whether the paper finds one of them."""
    return {
        "official": vqa.accuracy(extract(results[0]).text, doc["answers"]),
        "paper": vqa.paper_accuracy(results[0], vqa.paper_field(doc["answers"])),
        "unparsed": float(is_unparsed(results[0])),
    }
