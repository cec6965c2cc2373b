"""OK-VQA: a prediction and ten people's answers in, a score from 0.0 to 1.0 out.

The official rule is VQA's (vqaEval.py of GT-Vision-Lab/VQA), the paper's okvqa_eval.py of WenyiWU0111/CoMEM. OK-VQA's
own files hold stemmed answers ("race"), the copies on the Hub raw ones ("racing"): scores on the two differ, and
predictions are stemmed for neither here.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from comem_lmms.scoring.aggregate import percent, percent_by
from comem_lmms.scoring.normalise import lmms_eval, paper_answer, vqa, vqa_strip


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Right when three of the other nine people gave the answer, averaged over leaving out each of the ten.

    One match of ten gives 0.3, two 0.6, three 0.9, four and more 1.0. Where all ten agree, nothing is normalised: to
    ten times "twin" the answer "Twin" is wrong, as in the original.
    """
    stripped = [vqa_strip(answer) for answer in answers]
    if len(set(stripped)) <= 1:
        return _leave_one_out(vqa_strip(prediction), stripped)
    return _leave_one_out(vqa(prediction), [vqa(answer) for answer in answers])


def lmms_eval_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """As lmms-eval 0.7.3's ok_vqa, which normalises always and otherwise than VQA; the answers stay as they are."""
    return _leave_one_out(lmms_eval(prediction), [lmms_eval(answer) for answer in answers])


def paper_accuracy(prediction: str, answer_field: str) -> float:
    """1.0 if the paper's form of the prediction is one of the golds as they are; one person of ten suffices.

    The golds are not normalised: clothes, tennis, office or u.s.a. can never be matched.
    """
    return float(paper_answer(prediction) in paper_golds(answer_field))


def paper_golds(answer_field: str) -> list[str]:
    """The paper's reading of the answers, which its tables keep as the text of a numpy array, cut at each apostrophe.

    So ``['race' "don't know"]`` holds "race", '"don' and 't know"'.
    """
    pieces = answer_field.replace("[", "").replace("]", "").split("'")
    return [piece.strip() for piece in pieces if piece.strip()]


def paper_field(answers: Iterable[str]) -> str:
    """The text of a numpy array of the answers; its line breaks are missing, which changes no gold that can match."""
    return "[" + " ".join(repr(str(answer)) for answer in answers) + "]"


def aggregate(rows: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Pairs of question type and score in, percentages out, overall and by type, as both scripts report them."""
    return {"overall": percent([score for _, score in rows]), "perQuestionType": percent_by(rows)}


def _leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    if not answers:
        return 0.0
    agreeing = sum(answer == prediction for answer in answers)
    return sum(min(1.0, (agreeing - (answer == prediction)) / 3) for answer in answers) / len(answers)
