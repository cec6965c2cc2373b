"""Texts that break scorers, for hypothesis and for the clock."""

from hypothesis import settings
from hypothesis import strategies as st

settings.register_profile("busy", deadline=None)  # a machine may be busy; time is tested by the processor's clock
settings.load_profile("busy")

# fmt: off
PIECES = (
    "\\boxed{", "\\boxed", "\\text{", "{", "}", "\\{", "\\}", "\\", "$", "Final answer:", "最终答案：", "**", ":", "：",
    " ", "\n", "\t", "\x00", "\x85", "\u2028", "\u202e", "\u200d", "🇬🇧", "👩‍👩‍👧", "é", "e\u0301", "İ", "ß", "١٢", "½",
    "the", "of", "is", "by", "a", "Paris", "dog", "two", "don't", "dont", "1,234", "1.2.3", "-5", "1e9", "10-20", ",",
    ".", "A", "(B)", " C ", "D.", "2", "2.", "[", "]", "'", '"', "שלום", "مرحبا", "北京",
)
LONG = (
    "{", "}", "\\boxed{", "\\boxed {", "\\text{", "\\boxed{}", "\\", "Final answer", "Final answer:", "Final answer *",
    ":", "1", "1,", "1,111", "-1", ".1", "1e", "a ", "the", " ", "\n", "*", "'", "(A)", " A ", "٣", "🇬🇧", "最终答案",
    "x",
)
# fmt: on
TEXTS = st.text() | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def repeated(piece: str, length: int = 100_000) -> str:
    """The piece over and over, to this length."""
    return (piece * (length // len(piece) + 1))[:length]
