r"""The final answer in a model's output: text in, its answer and how it was found out.

One rule for all benchmarks whose official metric expects a bare answer: the last balanced ``\boxed{...}``; else what
follows the last "Final answer:", in the languages of the paper's prompts; else the whole output. The time is linear in
the length, whatever the text, and nothing is raised.
"""

import re
from typing import Literal, NamedTuple

# As the paper's prompts ask for it. Its Bulgarian prompts have two wordings, the second one in CVQA, as the last four.
FINAL_ANSWER = (
    "Final answer",
    "Respuesta final",
    "Resposta final",
    "最终答案",
    "Окончательный ответ",
    "Краен отговор",
    "Окончателен отговор",
    "最終的な答え",
    "Respont diwezhañ",
    "الإجابة النهائية",
    "Pinal na sagot",
)
MOST_WORDS, LONGEST_SHORT_ANSWER = 10, 100  # of an answer that is short enough to need no mark
# Models set the wording in bold ("**Final answer:**"), write a full-width colon in Chinese, or say "is".
_FINAL = re.compile(rf"(?:{'|'.join(FINAL_ANSWER)})(?:[\s*]*[:：]|(?: is\b|是)[ *]*[:：]?)", re.IGNORECASE)
_OPEN_BOX = "\\boxed"
_BRACE = re.compile(r"(?P<boxed>\\boxed\s*\{)|(?P<escaped>\\[{}])|(?P<open>\{)|(?P<close>\})")
_COMMAND = re.compile(
    r"(?P<command>\\(?:text|math|mbox|emph)[a-z]*\s*\{)|(?P<escaped>\\[{}])|(?P<open>\{)|(?P<close>\})"
)


class Extracted(NamedTuple):
    """An answer, stripped, and where it stood: in a box, behind "Final answer:", or nowhere in particular."""

    text: str
    how: Literal["boxed", "final_answer", "bare"]

    @property
    def parsed(self) -> bool:
        """Whether the output marked its answer."""
        return self.how != "bare"


def extract(output: str) -> Extracted:
    r"""The answer that official metrics are given.

    Of nested boxes the inner one counts; an empty box is an empty answer; a box that never closes is no box. Behind
    "Final answer:" the first line counts that is not empty.
    ``\text{}`` and its like (``\textbf``, ``\mathrm``, ``\mbox``, ``\emph``) are unwrapped, other LaTeX stays as it is.

    >>> extract(r"It may be \boxed{Oslo}. Final answer: \boxed{\text{Rome}}")
    Extracted(text='Rome', how='boxed')
    >>> extract("最终答案：巴黎")
    Extracted(text='巴黎', how='final_answer')
    """
    boxed = _last_boxed(output)
    if boxed is not None:
        return Extracted(_without_commands(boxed).strip(), "boxed")
    if final := list(_FINAL.finditer(output)):
        first, _, _ = _bare(output[final[-1].end() :]).partition("\n")
        return Extracted(_bare(first), "final_answer")
    return Extracted(output.strip(), "bare")


def _bare(text: str) -> str:
    """Without asterisks and any white space around it."""
    while (shorter := text.strip().strip("*")) != text:
        text = shorter
    return text


def is_unparsed(output: str) -> bool:
    """Whether no answer can be told from an output: `extract` finds an empty one, or a long text with none marked.

    A box that never closes, as where an output was cut off, marks none. Long is more than one line, more than 10 words,
    or more than 100 characters (Chinese has no spaces). It is for free answers; where there are options, an output is
    unparsed if none can be picked.
    """
    text, how = extract(output)
    long = "\n" in text or len(text) > LONGEST_SHORT_ANSWER or len(text.split()) > MOST_WORDS
    return not text or (how == "bare" and long) or (how != "boxed" and _OPEN_BOX in text)


def paper_extract(output: str) -> str:
    r"""The answer for the paper's scorers, unstripped: the first ``\boxed{...}``, else what follows the last colon.

    Their regular expression stops at the first closing brace and at a line break, so ``\boxed{a{b}c}`` gives ``a{b``
    and a box over two lines is none; ``time 10:30`` gives ``30``, and a full-width colon is no colon. Written without
    the expression, which takes quadratic time on boxes that never close.
    """
    for line in output.split("\n"):
        opened = line.find(r"\boxed{")
        closed = line.find("}", opened)
        if opened >= 0 and closed >= 0:
            return line[opened + len(r"\boxed{") : closed]
    return output.rpartition(":")[2]


def _last_boxed(text: str) -> str | None:
    """The content of the balanced box that opens last. One stack instead of a search from every box."""
    opened: list[int] = []  # where the content of a box begins, -1 for any other brace
    start, end = -1, -1
    for brace in _BRACE.finditer(text):
        if brace.lastgroup == "boxed":
            opened.append(brace.end())
        elif brace.lastgroup == "open":
            opened.append(-1)
        elif brace.lastgroup == "close" and opened:
            start, end = max((start, end), (opened.pop(), brace.start()))
    return text[start:end] if start >= 0 else None


def _without_commands(text: str) -> str:
    r"""``\text{Rome}`` as ``Rome``; braces are balanced here."""
    kept, start, opened = [], 0, []
    for brace in _COMMAND.finditer(text):
        if brace.lastgroup in ("command", "open"):
            opened.append(brace.lastgroup)
        drop = brace.lastgroup == "command" or (brace.lastgroup == "close" and opened and opened.pop() == "command")
        if drop:
            kept.append(text[start : brace.start()])
            start = brace.end()
    return "".join(kept) + text[start:]
