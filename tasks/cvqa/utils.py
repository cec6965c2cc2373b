"""CVQA's task functions: a document and an output in, the number picked and its score out; and its 39 subsets."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from comem_lmms.tasks.common import Doc, Settings, combined, complete, images, mean, prompt, to_combine
from loguru import logger

from comem_lmms import data
from comem_lmms.errors import UserError
from comem_lmms.questions import chat, templates
from comem_lmms.scoring import choices
from comem_lmms.scoring.aggregate import Estimate, estimate, grouped, macro_estimate
from comem_lmms.scoring.extraction import extract

FROM_HUB = {"revision": data.revision("cvqa")}  # what was prepared, else the pinned commit, else the newest
# As remembered, not read from the data set: process_docs says where a task's own are not there.
COUNTRIES = {
    "Amharic": ["Ethiopia"],
    "Bengali": ["India"],
    "Breton": ["France"],
    "Bulgarian": ["Bulgaria"],
    "Chinese": ["China", "Singapore"],
    "Egyptian_Arabic": ["Egypt"],
    "Filipino": ["Philippines"],
    "Hindi": ["India"],
    "Igbo": ["Nigeria"],
    "Indonesian": ["Indonesia"],
    "Irish": ["Ireland"],
    "Japanese": ["Japan"],
    "Javanese": ["Indonesia"],
    "Kinyarwanda": ["Rwanda"],
    "Korean": ["South Korea"],
    "Malay": ["Malaysia"],
    "Marathi": ["India"],
    "Minangkabau": ["Indonesia"],
    "Mongolian": ["Mongolia"],
    "Norwegian": ["Norway"],
    "Oromo": ["Ethiopia"],
    "Portuguese": ["Brazil"],
    "Romanian": ["Romania"],
    "Russian": ["Russia"],
    "Sinhala": ["Sri_Lanka"],
    "Spanish": ["Argentina", "Chile", "Colombia", "Ecuador", "Mexico", "Spain", "Uruguay"],
    "Sundanese": ["Indonesia"],
    "Swahili": ["Kenya"],
    "Tamil": ["India"],
    "Telugu": ["India"],
    "Urdu": ["India", "Pakistan"],
}
# By the names that tasks and metrics have: {"spanish_spain": "('Spanish', 'Spain')", ...}
SUBSETS = {
    f"{language}_{country}".lower().replace(" ", "_"): str((language, country))
    for language, countries in COUNTRIES.items()
    for country in countries
}
NAMES = {subset: name for name, subset in SUBSETS.items()}
# The paper's five, and how many questions of each its accuracies imply.
PAPER = {
    "bulgarian_bulgaria": 371,
    "chinese_china": 311,
    "portuguese_brazil": 284,
    "russian_russia": 200,
    "spanish_spain": 318,
}


def macro(items: Sequence[tuple[str, float]]) -> Estimate:
    """The mean over subsets, from pairs of subset and score."""
    return macro_estimate([estimate(scores) for scores in grouped(items).values()])


def _metrics(subsets: Collection[str]) -> list[dict[str, Any]]:
    both = [
        entry
        for metric in ("official", "paper")
        for entry in (
            *combined(metric, macro),
            *mean(f"{metric}_micro"),
            *(entry for subset in subsets for entry in mean(f"{metric}_{subset}")),
        )
    ]
    return [*both, *mean("unparsed", higher_is_better=False)]


METRICS, ALL_METRICS = _metrics(PAPER.keys()), _metrics(SUBSETS)


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Settings) -> str:
    """Question and options in their own language, worded in it too where the paper has words for it."""
    own = f"cvqa {doc['Subset']}"
    settings = lmms_eval_specific_kwargs
    if settings["prompt"] != "short" and own in templates():
        settings = {**settings, "template": own}
    # The paper's script puts no space before "1." and one behind the last option.
    options = "".join(f"{number}. {option} " for number, option in enumerate(doc["Options"], start=1))
    return prompt(doc["Question"] + options, settings)


def doc_to_messages(doc: Doc, lmms_eval_specific_kwargs: Settings) -> list[dict[str, Any]]:
    """The same as a chat."""
    return chat(images(doc), doc_to_text(doc, lmms_eval_specific_kwargs), lmms_eval_specific_kwargs["prompt"])


def doc_to_target(doc: Doc) -> str:
    """The number of the right option, from 1."""
    return str(doc["Label"] + 1)


def right_option(doc: Doc) -> str:
    """The text of the right option, in the question's language."""
    return doc["Options"][doc["Label"]]


def language(doc: Doc) -> str:
    """The language of a document's subset, which is the text of a pair: "('Spanish', 'Chile')"."""
    return doc["Subset"].strip("()").split(",")[0].strip("'")


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Both metrics as the mean over subsets, over questions, and of the document's subset."""
    subset = NAMES.get(doc["Subset"], doc["Subset"])
    scores = process_subset(doc, results)
    several: dict[str, Any] = {}
    for metric in ("official", "paper"):
        score = scores[metric]
        several |= {**to_combine(metric, (subset, score)), f"{metric}_micro": score, f"{metric}_{subset}": score}
    return {**several, "unparsed": scores["unparsed"]}


def process_subset(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Both metrics of one question; the option may also be told by its text, in the official one."""
    picked = choices.score(choices.number(extract(results[0]).text, doc["Options"]), doc["Label"])
    return {
        "official": picked.score,
        "paper": choices.paper_number(results[0], doc["Label"]),
        "unparsed": float(not picked.parsed),
    }


def _only(*names: str) -> Callable[[Any], Any]:
    def chosen(rows: Any) -> list[int]:
        _are_labelled(rows)
        kept = {SUBSETS[name] for name in names}
        if absent := kept - set(rows["Subset"]):
            raise UserError(
                f"CVQA has no subset {sorted(absent)}; unknown here are {sorted(set(rows['Subset']) - NAMES.keys())}: "
                "if one of them is meant, the data set spells it otherwise; cvqa_all takes all as they are"
            )
        return [number for number, subset in enumerate(rows["Subset"]) if subset in kept]

    return complete("cvqa", "test", chosen)


def _all(rows: Any) -> None:
    """Every subset that the data set has; those not known here count in the mean, without a metric of their own."""
    _are_labelled(rows)
    if unknown := sorted(set(rows["Subset"]) - NAMES.keys()):
        logger.warning(f"subsets of CVQA that have no metric of their own here: {unknown}")


def _are_labelled(rows: Any) -> None:
    """Older revisions withhold the labels (-1)."""
    if strange := set(rows["Label"]) - {0, 1, 2, 3}:
        raise UserError(f"CVQA has the labels {sorted(strange)} besides 0 to 3; take a revision with labels")


def paper_docs(rows: Any) -> Any:
    """The paper's five subsets; says where their sizes are not those that the paper's accuracies imply."""
    kept = _only(*PAPER)(rows)
    sizes = Counter(NAMES[subset] for subset in kept["Subset"])
    if sizes != PAPER:
        logger.warning(f"the paper's subsets of CVQA have {dict(sizes)} questions, and in the paper {PAPER}")
    return kept


all_docs = complete("cvqa", "test", _all)
globals().update({name: _only(name) for name in SUBSETS})  # one process_docs a subset, for its YAML
