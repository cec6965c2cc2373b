"""ViQuAE: a prediction and the accepted answers in, exact match and F1 out.

The official rules are meerqat/train/metrics.py of PaulLerner/ViQuAE, the paper's viquae_eval.py of WenyiWU0111/CoMEM.
"""

from collections import Counter
from collections.abc import Iterable

from comem_lmms.scoring.normalise import paper_answer, squad


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """1.0 if the prediction is one of the answers after SQuAD's normaliser."""
    return float(squad(prediction) in {squad(answer) for answer in answers})


def f1(prediction: str, answers: Iterable[str]) -> float:
    """The best F1 of words over the answers, words counted with their repeats."""
    return max((_f1(squad(prediction).split(), squad(answer).split()) for answer in answers), default=0.0)


def paper_score(prediction: str, answers: Iterable[str]) -> float:
    r"""1.0 if the paper's form of the prediction is one of the answers, which are only stripped.

    An answer with a capital, an apostrophe or is/the/of/by in it can thus never be matched. The text is cut at the last
    colon before any box is looked for: ``\boxed{x: Rome}`` gives "rome", and ``\boxed{rome} because: known`` "known".
    """
    ours = paper_answer(prediction.rpartition(":")[2])
    return float(ours in {answer.strip() for answer in answers if answer.strip()})


def _f1(ours: list[str], gold: list[str]) -> float:
    shared = (Counter(ours) & Counter(gold)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(gold)
    return 2 * precision * recall / (precision + recall)
