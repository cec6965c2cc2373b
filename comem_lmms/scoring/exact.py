"""Exact match: an answer and the right one in, 0.0 or 1.0 out."""


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if both are the same up to case, surrounding space and one full stop at the end."""
    return float(_normalise(prediction) == _normalise(reference))


def _normalise(text: str) -> str:
    return text.strip().removesuffix(".").strip().casefold()
