"""The tables of VQA's official normaliser (`vqaEval.py`): contractions, number words, articles and punctuation.

The contractions are lmms-eval's, whose table is the official one, slips included, since scores depend on them:
`somebody'd` loses its apostrophe, `Im` and other capitals never match a lower-cased word, `let's` maps to itself.
"""

import importlib.util
import runpy
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS: Mapping[str, str] = MappingProxyType({"none": "0"} | {word: str(n) for n, word in enumerate(_WORDS)})
ARTICLES = ("a", "an", "the")
PUNCTUATION = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")


@cache
def contractions() -> Mapping[str, str]:
    """`dont` to `don't`, and so on, 120 of them.

    The one file is read that holds them: importing the package around it would take seconds.
    """
    (package,) = importlib.util.find_spec("lmms_eval").submodule_search_locations  # type: ignore[union-attr, misc]
    namespace = runpy.run_path(f"{package}/tasks/_task_utils/vqa_eval_metric.py")
    return MappingProxyType(dict(namespace["EvalAIAnswerProcessor"].CONTRACTIONS))
