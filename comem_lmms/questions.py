"""How questions are put into words: the name of a template, a style and a question in, the text of the prompt out.

``questions.json`` holds the templates, in which ``{question}`` stands for the question and all else for itself. Styles:
``paper`` is the paper's wording for a model without knowledge, ``paper_knowledge`` the one for RAG and CoMEM (where the
paper has one wording for all, there is only ``paper``), ``short`` asks for nothing but the answer. ``short`` is our own
wording except for MRAG-Bench, where it is the authors', and so is ``paper`` of CVQA's languages that the paper has none
for. The rest is the paper's, down to spaces at the ends of lines (WenyiWU0111/CoMEM).
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from comem_lmms.errors import UserError

STYLES = ("short", "paper", "paper_knowledge")
_PLACE = "{question}"


def ask(template: str, style: str, question: str) -> str:
    """The prompt.

    Raises:
        UserError: there is no such style.
        KeyError: there is no such template, or it has nothing like that style.
    """
    if style not in STYLES:
        raise UserError(f"prompt: {style!r} is no way to ask; lmms_eval_specific_kwargs of a task takes {STYLES}")
    wordings = templates()[template]
    wording = wordings.get(style) or wordings["short" if style == "short" else "paper"]
    return wording.replace(_PLACE, question)


def chat(images: list[Image.Image], text: str, style: str) -> list[dict[str, Any]]:
    """One user turn as lmms-eval's chat models take it: the paper puts images behind the text, lmms-eval in front."""
    shown = [{"type": "image", "url": image} for image in images]
    words = [{"type": "text", "text": text}]
    return [{"role": "user", "content": [*shown, *words] if style == "short" else [*words, *shown]}]


@cache
def templates() -> dict[str, dict[str, str]]:
    """All wordings, by template and style."""
    return json.loads(Path(__file__).with_name("questions.json").read_text(encoding="utf-8"))
