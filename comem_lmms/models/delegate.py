"""Lets another model of lmms-eval answer: our requests and their hits in, that model's answers out.

Most models of lmms-eval batch requests and then call the first request's function for every document of the batch, of
which they look up the first one's task. So a base gets one task at a time, all its requests share one function, and a
document tells that function its number.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import groupby
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms

from comem_lmms.errors import UserError
from comem_lmms.prompts import one_turn
from comem_lmms.records import Hit

Chat = list[dict[str, Any]]
Layout = Callable[[Chat, Sequence[Hit]], Chat]
Rows = dict[int, tuple[Instance, Sequence[Hit]]]


def delegate(
    base: lmms,
    documents: dict[str, dict[str, Any]],
    requests: Sequence[Instance],
    hits: Sequence[Sequence[Hit]],
    layout: Layout,
) -> list[GenerationResult | str]:
    """The base's answers, in the order of the requests.

    Args:
        base: a chat model or a simple model.
        documents: by task and split, as lmms-eval gives them to a model (``task_dict``).
        requests: in the form that chat models get.
        hits: of each request, best first.
        layout: makes of a chat and its hits the chat that is asked.

    Raises:
        UserError: the base is a simple model, and a task does not say what is to be seen.
    """
    answers: list[Any] = [None] * len(requests)
    for (task, split), numbers in _by_task(requests):
        rows = {requests[i].args[3]: (requests[i], hits[i]) for i in numbers}
        arguments = (_simple_arguments if base.is_simple else _chat_arguments)(rows, layout)
        base.task_dict = {task: {split: _Documents(documents[task][split])}}
        asked = [replace(requests[i], arguments=arguments(requests[i])) for i in numbers]
        for i, answer in zip(numbers, base.generate_until(asked), strict=True):
            answers[i] = answer
    return answers


class _Document(dict[str, Any]):
    """A document that knows its number."""

    number: int


class _Documents:
    """The documents of a split, which know their numbers."""

    def __init__(self, documents: Any) -> None:
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, number: int) -> _Document:
        document = _Document(self._documents[number])
        document.number = number
        return document


def _by_task(requests: Sequence[Instance]) -> Iterator[tuple[tuple[str, str], list[int]]]:
    """Task and split with the places of their requests."""

    def place(i: int) -> tuple[str, str]:
        return requests[i].args[4:6]

    for key, places in groupby(sorted(range(len(requests)), key=place), place):
        yield key, list(places)


def _chat_arguments(rows: Rows, layout: Layout) -> Callable[[Instance], tuple]:
    def doc_to_messages(doc: _Document, **kwargs: Any) -> Chat:
        request, hits = rows[doc.number]
        return layout(request.args[1](doc, **kwargs), hits)

    # Models change the arguments of generation, by which lmms-eval's response cache looks answers up afterwards.
    return lambda request: (request.args[0], doc_to_messages, deepcopy(request.args[2]), *request.args[3:])


def _simple_arguments(rows: Rows, layout: Layout) -> Callable[[Instance], tuple]:
    def turn(number: int, context: str = "", visuals: Sequence[Any] = ()) -> tuple[str, list[Any]]:
        return one_turn(lambda chat: layout(chat, rows[number][1]), context, visuals)

    def doc_to_visual(doc: _Document) -> list[Any]:
        return turn(doc.number, visuals=_seen_by(rows[doc.number][0], doc))[1]

    def arguments(request: Instance) -> tuple:
        context, _, gen_kwargs, number, *place = request.args
        return (turn(number, context)[0], deepcopy(gen_kwargs), doc_to_visual, number, *place)

    return arguments


def _seen_by(request: Instance, doc: dict[str, Any]) -> list[Any]:
    """What a simple model would see of a document; the request has the method of the task for chat models only."""
    task: Any = getattr(request.args[1], "__self__", None)
    if not hasattr(task, "doc_to_visual"):
        raise UserError(f"task {request.args[4]} has no doc_to_visual, which a simple model as base= needs")
    return task.doc_to_visual(doc) or []
