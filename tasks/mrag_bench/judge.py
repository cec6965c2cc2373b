"""MRAG-Bench with a judge for outputs in which the authors' parser finds no letter; their script asks GPT-4o-mini.

The judge is lmms-eval's (``lmms_eval.llm_judge``), set up as in its other tasks: ``API_TYPE`` (openai by default) and
``MODEL_VERSION`` (gpt-4o-mini by default) in the environment, and what that kind of API needs, e.g. ``OPENAI_API_KEY``
and ``OPENAI_API_URL``. The question to it is worded by us.
"""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from comem_lmms.tasks.common import Doc, mean
from comem_lmms.tasks.mrag_bench import utils
from loguru import logger

from comem_lmms.errors import UserError, one_line
from comem_lmms.scoring import choices
from comem_lmms.scoring.extraction import extract

METRICS = [*utils.METRICS, *mean("judged", higher_is_better=False)]
PROMPT = """Which option does an answer to a multiple-choice question choose?

Question: {question}
{options}
Answer: {output}

Reply with the letter of the option alone, or with Z if the answer chooses none of them, or several."""


def docs(rows: Any) -> Any:
    """The documents, if there is a judge to be asked."""
    try:
        ready, why = _server().is_available(), ""
    except Exception as error:  # each kind of API has its own for what is missing
        ready, why = False, f" ({one_line(error)})"
    if not ready:
        message = f"mrag_bench_judge has no judge{why}: set API_TYPE and e.g. OPENAI_API_KEY, or run mrag_bench"
        logger.error(message)  # lmms-eval tries five times and hides it behind an error of its own
        raise UserError(message)
    return utils.docs(rows)


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """As without a judge where a letter is found; else the judge's, and ``judged`` says that it was asked."""
    scores = utils.process_results(doc, results)
    if not scores["unparsed"] and not scores["paper_unparsed"]:
        return {**scores, "judged": 0.0}
    picked = choices.score(_ask(doc, extract(results[0]).text), doc["answer_choice"])
    if scores["paper_unparsed"]:
        scores |= {"paper": picked.score, "paper_unparsed": float(not picked.parsed)}
    if scores["unparsed"]:
        scores |= {name: picked.score for name in scores if name.startswith("official")}
        scores["unparsed"] = float(not picked.parsed)
    return {**scores, "judged": 1.0}


def _ask(doc: Doc, output: str) -> str | None:
    """The letter that the judge reads in an output; None if it reads none, or cannot be reached after all tries."""
    from lmms_eval.llm_judge import Request

    options = "\n".join(f"{letter}: {doc[letter]}" for letter in choices.LETTERS)
    asked = PROMPT.format(question=doc["question"], options=options, output=output)
    try:
        reply = _server().evaluate(Request(messages=[{"role": "user", "content": asked}])).content
    except Exception as error:  # after all its tries; the answers that were generated must not be lost with it
        logger.warning(f"the judge could not be asked ({one_line(error)}); the output counts as unparsed")
        return None
    return choices.letter(reply)


@cache
def _server() -> Any:
    from lmms_eval.llm_judge import ServerConfig, get_server

    config = ServerConfig(model_name=os.environ.get("MODEL_VERSION", "gpt-4o-mini"), max_tokens=16)
    return get_server(os.environ.get("API_TYPE", "openai"), config)
