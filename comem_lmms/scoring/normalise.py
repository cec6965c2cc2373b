"""Spellings made comparable: text in, text out, one function for each normaliser that a score depends on."""

import re
import string

from comem_lmms.scoring.extraction import paper_extract
from comem_lmms.scoring.vqa_tables import ARTICLES, CONTRACTIONS, NUMBER_WORDS, PUNCTUATION

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: ’ “ – ， 。 survive
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_FULL_STOP = re.compile(r"\.(?!\d)")


def squad(text: str) -> str:
    """SQuAD's normaliser, which InfoSeek's and ViQuAE's official scorers use.

    Lower case, no ASCII punctuation, no English articles, single spaces. In Chinese nothing but spaces changes.
    """
    return _without_articles(text.lower().translate(_NO_PUNCTUATION))


def paper(text: str) -> str:
    """The normaliser of the paper's scorers: SQuAD's, with everything up to the last "is", "the", "of", "by" removed.

    Meant to rescue "The answer is Rome", it looks for letters and not for words: Paris becomes the empty string, Athens
    "ns" and office "fice". So entities that end alike become equal, to each other and to an empty answer.
    """
    text = text.lower().translate(_NO_PUNCTUATION)
    for word in ("is", "the", "of", "by"):
        text = text.rpartition(word)[2]
    return _without_articles(text)


def paper_answer(output: str) -> str:
    """The answer in an output as the paper's scorers compare it: extracted, then normalised."""
    return paper(paper_extract(output))


def vqa(text: str) -> str:
    """VQA's normaliser, to be used only where the annotators disagree (see ``vqa.accuracy``)."""
    return vqa_digits(vqa_punctuation(vqa_strip(text)))


def vqa_strip(text: str) -> str:
    """Line breaks and tabs as spaces, none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_punctuation(text: str) -> str:
    """Punctuation deleted or replaced by a space, as `processPunctuation` of vqaEval.py (GT-Vision-Lab/VQA).

    A mark is deleted if it stands beside a space anywhere in the text, and every mark is deleted from a text with a
    comma between digits; otherwise it becomes a space. Only the first 32 full stops go, since the original passes
    `re.UNICODE` (32) where the count belongs.
    """
    return _punctuation(text, bool(_COMMA_IN_NUMBER.search(text)))


def vqa_digits(text: str) -> str:
    """Lower case, number words up to ten as digits, no articles, apostrophes put into contractions, single spaces."""
    words = (NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def lmms_eval(text: str) -> str:
    """The normaliser of lmms-eval 0.7.3's ok_vqa, for comparing with its numbers.

    It deletes "," and "?" and splits off "'s" before it does what VQA does: "dog,cat" becomes "dogcat", not "dog cat".
    """
    text = vqa_strip(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))
    return vqa_digits(_punctuation(text, bool(_COMMAS_IN_NUMBER.search(text))))


def _without_articles(text: str) -> str:
    return " ".join(_ARTICLE.sub(" ", text).split())


def _punctuation(text: str, comma_in_number: bool) -> str:
    cleaned = text
    for mark in PUNCTUATION:
        deleted = comma_in_number or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if deleted else " ")
    return _FULL_STOP.sub("", cleaned, count=32)
