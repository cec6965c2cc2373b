"""MRAG-Bench and CVQA: an output and its options in, the option picked out, or None where none can be told.

What cannot be parsed scores 0.0 and says so: MRAG-Bench's authors would ask GPT-4o-mini, and no judge is asked here.
"""

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from comem_lmms.scoring.aggregate import percent, percent_by
from comem_lmms.scoring.extraction import paper_extract

LETTERS = "ABCD"
_NUMBERED = re.compile(r"[\s(\[]*(\d{1,2})(?!\d)\s*(?:$|[)\]]|[.:](?!\d)|[：．。、])")
_MARKS = string.whitespace + "*_\"'`.,:;!?()[]{}$：．。、"  # no minus: "-1" is not option 1


class Picked(NamedTuple):
    """The option picked, None if unparsed, and its score: the number of unparsed ones is part of a result."""

    option: str | int | None
    score: float

    @property
    def parsed(self) -> bool:
        """Whether an option could be told from the output."""
        return self.option is not None


def score(option: str | int | None, gold: str | int) -> Picked:
    """1.0 for the right option; nothing picked is wrong and remains recognisable."""
    return Picked(option, float(option is not None and option == gold))


def letter(output: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letter in an output, as MRAG-Bench's parser (utils/automatic_extract.py, which is MMMU's) finds it.

    "(B)" comes before " B ", that before the text of an option in an output of more than five words; of several the
    last one counts. A capital A that is an article counts as option A. The authors' score.py hands its parser a number
    instead of the options and so crashes at the third step: without options this gives what it gives, and None where it
    crashes.
    """
    text = f" {_stripped(output)} "
    return (
        _rightmost(LETTERS, lambda option: text.rfind(f"({option})"))
        or _rightmost(LETTERS, lambda option: text.rfind(f" {option} "))
        or _by_content(text.lower(), options or {})
    )


def paper_letter(output: str) -> str | None:
    """The first character if it is a letter from A to D: "Based on ..." picks B, "(A)" nothing.

    On other characters the paper's script asks GPT-4o-mini, and on an empty output it crashes: None here.
    """
    first = output.strip()[:1]
    return first if first and first in LETTERS else None


def number(answer: str, options: Sequence[str] = ()) -> int | None:
    """The index, from 0, of the option that an extracted answer names by its number or its text; a rule of our own.

    CVQA has no public scorer, only the definition that the index equals ``Label``. "2", "(2)", "2.", "2. Plaza Mayor"
    and the text itself are read; "2 or 3", "2.5", and numbers that no option has, are not.

    >>> number("2. Plaza Mayor", ("Puerta del Sol", "Plaza Mayor", "Retiro", "Prado"))
    1
    """
    numbered = _NUMBERED.match(answer) or _NUMBERED.match(answer.strip(_MARKS))
    index = int(numbered[1]) - 1 if numbered else -1
    if 0 <= index < (len(options) or len(LETTERS)):
        return index
    told = [i for i, option in enumerate(options) if _same_text(answer, option)]
    return told[0] if len(told) == 1 else None


def paper_number(output: str, label: int) -> float:
    r"""1.0 if the answer is the option's number to the letter, as the paper's cvqa_eval.py has it: nothing is stripped.

    "Final answer: 1" is wrong for its space, and so are ``\boxed{ 1 }``, "1." and a full-width colon.
    """
    return float(paper_extract(output) == str(int(label) + 1))


def aggregate(rows: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Pairs of scenario and score in, MRAG-Bench's accuracies in percent out."""
    return {"overall_accuracy": percent([one for _, one in rows]), "per_scenario": percent_by(rows)}


def _stripped(text: str) -> str:
    """Without the marks at its ends, mark by mark in this order: "A.'" becomes "A." and "A'." becomes "A"."""
    text = text.strip()
    for mark in ",.!?;:'":
        text = text.strip(mark)
    return text


def _rightmost(options: Iterable[str], place: Callable[[str], int]) -> str | None:
    best = max(options, key=place)
    return best if place(best) >= 0 else None


def _by_content(text: str, options: Mapping[str, str]) -> str | None:
    if len(text.split()) <= 5 or not options:
        return None
    return _rightmost(options, lambda option: text.rfind(options[option].lower()))


def _same_text(answer: str, option: str) -> bool:
    return answer.strip(_MARKS).casefold() == option.strip(_MARKS).casefold() != ""
