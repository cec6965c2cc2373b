"""What a document tells about its right answer, for measuring retrieval: a task's declaration and a document in.

A task declares it in its YAML file, each as a column's name or a function of the document::

    metadata:
      retrieval: {answers: answers, entity: entity_text, split: data_split, language: lang, normalise: squad}

``normalise`` is the name of the normaliser of the task's official scorer. All may be left out.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from comem_lmms.errors import UserError
from comem_lmms.scoring.exact import normalise
from comem_lmms.scoring.normalise import squad, vqa

Declared = Mapping[str, str | Callable[[Mapping[str, Any]], Any]]

NORMALISERS: Mapping[str, Callable[[str], str]] = {"none": str, "exact": normalise, "squad": squad, "vqa": vqa}
_DEFAULT = "exact"


class Facts(NamedTuple):
    """What one document tells.

    Attributes:
        answers: those that are right, any of them; none where the answer is no short text.
        entity: the title of the page that the question is about.
        split, language: what results are told apart by.
    """

    answers: list[str]
    entity: str | None
    split: str | None
    language: str | None


def declared(task: str, metadata: Any) -> Declared:
    """What a task's ``metadata`` declares; nothing where it says nothing about retrieval.

    Raises:
        UserError: it declares what is not known here.
    """
    fields = (metadata.get("retrieval") if isinstance(metadata, Mapping) else None) or {}
    known = (*Facts._fields, "normalise")
    if not isinstance(fields, Mapping) or (unknown := sorted(set(fields) - set(known))):
        what = fields if not isinstance(fields, Mapping) else unknown[0]
        raise UserError(f"task {task}: metadata: retrieval: {what!r} is unknown; declare some of {', '.join(known)}")
    normaliser(task, fields.get("normalise"))
    return fields


def normaliser(task: str, name: Any) -> Callable[[str], str]:
    """The normaliser of a name; by default that of `exact`.

    Raises:
        UserError: there is none.
    """
    if name not in (None, *NORMALISERS):
        raise UserError(f"task {task}: normalise: {name!r} is unknown; choose one of {', '.join(NORMALISERS)}")
    return NORMALISERS[name or _DEFAULT]


def facts(doc: Mapping[str, Any], fields: Declared) -> Facts:
    """What a document tells; a column that it lacks tells nothing."""

    def told(name: str) -> Any:
        source = fields.get(name)
        return doc.get(source) if isinstance(source, str) else source(doc) if source else None

    answers = told("answers")
    texts = answers if isinstance(answers, list | tuple | set) else [] if answers in (None, "") else [answers]
    single = (told(name) for name in Facts._fields[1:])
    return Facts(list(dict.fromkeys(map(str, texts))), *(str(one) if one else None for one in single))
