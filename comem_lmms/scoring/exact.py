"""Exact match: an answer and the right one in, 0.0 or 1.0 out."""


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if both are the same up to case, surrounding space and one full stop at the end."""
    return float(normalise(prediction) == normalise(reference))


def normalise(text: str) -> str:
    """Without case, surrounding space and one full stop at the end."""
    return text.strip().removesuffix(".").strip().casefold()
