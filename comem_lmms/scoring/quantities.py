"""Numbers in a text, and whether they lie in a range: what InfoSeek's official scorer does with numerical answers."""

import re

Range = tuple[float, float]

_NUMBER = re.compile(r"[-+]?[.]?\d+(?:,\d\d\d)*[.]?\d*(?:[eE][-+]?\d+)?")


def parse(text: str) -> float | Range:
    """The number, or the range of the first two numbers if they ascend; (0, 0) of a text without any.

    Its traps are the original's: ".5" is 5, "3 000" is 3, "1/2" and "1,23" are ranges, a descending pair is its first
    number, and units and words ("3.5 million") are not read. ``\\d`` is any script's digit, and so is Python's float.
    """
    found = [number for token in _NUMBER.findall(spaced_minus(text)) if (number := _number(token)) is not None]
    if not found:
        return 0.0, 0.0
    if len(found) > 1 and found[0] <= found[1]:
        return found[0], found[1]
    return found[0]


def spaced_minus(text: str) -> str:
    """A minus behind a digit is a dash: "10-20" as "10 - 20"."""
    return re.sub(r"(?<=\d)-", " - ", text)


def in_range(prediction: float | Range, answer: Range) -> bool:
    """A number must lie in the range, ends included; a range must too, or overlap it with an IoU of one half."""
    low, high = answer
    if not isinstance(prediction, tuple):
        return low <= prediction <= high
    if all(low <= end <= high for end in prediction):
        return True
    return overlap(prediction, answer) >= 0.5 - 1e-12


def overlap(one: Range, other: Range) -> float:
    """Intersection over union of two ranges; each is 1e-12 longer, so equal ones give a little less than 1."""
    (low, high), (other_low, other_high) = sorted(one), sorted(other)
    shared = max(0.0, min(high, other_high) - max(low, other_low))
    lengths = (high - low + 1e-12) + (other_high - other_low + 1e-12)
    return shared / (lengths - shared)


def _number(token: str) -> float | None:
    """None for "+.1.5", of which the rule keeps the sign alone; the original stops there with an error."""
    token = token.replace(",", "").strip(".")
    if token.count(".") > 1:
        token = token.partition(".")[0]
    try:
        return float(token)
    except ValueError:
        return None
