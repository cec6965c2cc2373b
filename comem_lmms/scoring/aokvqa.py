"""A-OKVQA: a prediction and ten direct answers, or four choices, in, a score from 0.0 to 1.0 out.

The official rules are eval_predictions.py of allenai/aokvqa; the paper's is aokvqa_eval.py of WenyiWU0111/CoMEM.
"""

import ast
from collections.abc import Iterable, Sequence

from comem_lmms.scoring.choices import Picked
from comem_lmms.scoring.normalise import paper_answer


def direct_answers(field: str | Sequence[str]) -> list[str]:
    """The ten answers; the dataset keeps them as the text of a Python list."""
    return [str(answer) for answer in (ast.literal_eval(field) if isinstance(field, str) else field)]


def direct_answer(prediction: str, answers: Iterable[str]) -> float:
    """A third for each equal answer, at most 1.0.

    No normalisation and no leaving out, unlike VQA: three matches give 1.0, "Cigarette" is not "cigarette".
    """
    return min(1.0, sum(answer == prediction for answer in answers) / 3)


def is_scored(difficult_direct_answer: bool) -> bool:
    """Whether a question counts for direct answers: the official script drops difficult ones, the paper's does not."""
    return not difficult_direct_answer


def multiple_choice(prediction: str, choices: Sequence[str], correct_choice_idx: int) -> Picked:
    """Right if the prediction is the text of the right choice; a letter or a number is no choice at all.

    The official script in strict mode refuses predictions that are none of the choices; here they are unparsed.
    """
    picked = prediction if prediction in choices else None
    return Picked(picked, float(picked == choices[correct_choice_idx]))


def paper_score(prediction: str, answers: Iterable[str]) -> float:
    """1.0 if the paper's form of the prediction is one of the answers, which are not normalised.

    It has no rule for choices and keeps difficult questions.
    """
    return float(paper_answer(prediction) in set(answers))
