"""What a sample log leaves out, as far as it can still be had: a question's document, and the items it was given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from comem_lmms import micro
from comem_lmms.errors import UserError, one_line
from comem_lmms.explorer.pictures import Pictures
from comem_lmms.explorer.questions import Question
from comem_lmms.harness import Documents, documents
from comem_lmms.images import images_of, open_image
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.report.reading import Evaluation

_REMEMBERED = 20_000  # items, of which neighbouring questions and all methods share many


class Asked(NamedTuple):
    """A question's document.

    Attributes:
        question: without the wording of a prompt around it, None where the document cannot be had.
        pictures: all that it shows.
        answers: those that are right.
        split, language: where the task tells.
        lacking: why there is no picture, "" if there is one.
    """

    question: str | None = None
    pictures: Sequence[Image.Image] = ()
    answers: Sequence[str] = ()
    split: str | None = None
    language: str | None = None
    lacking: str = ""


class Task:
    """The documents of a task, loaded as lmms-eval loads them.

    Args:
        name: the task's.
        include_path: a folder with more tasks.
    """

    def __init__(self, name: str, include_path: str | None = None) -> None:
        self._name = name
        self._documents = _documents(name, include_path)

    def asked(self, question: Question) -> Asked:
        """What a question's document tells, if it is the one that was asked: its right answer tells."""
        found = self._documents
        if isinstance(found, str):
            return Asked(lacking=found)
        try:
            if not 0 <= question.number < len(found) or found.target(question.number) != question.target:
                return Asked(lacking=f"the data of {self._name} on this machine is not what was asked")
            facts = found.facts(question.number)
            query = found.query(question.number)
            pictures = [open_image(part["url"]) for part in images_of(query.messages)]
        except Exception as error:  # a document, and the task's code that reads it, can be anything
            return Asked(lacking=f"the document cannot be read ({one_line(error)})")
        lacking = "" if pictures else "the question has none"
        return Asked(query.text, pictures, facts.answers, facts.split, facts.language, lacking)


class Item(NamedTuple):
    """What is shown of an item of a knowledge base.

    Attributes:
        title, text: as the base has them.
        image: the name of a file of the site, "" without.
        lacking: what there is not, and why.
    """

    title: str = ""
    text: str = ""
    image: str = ""
    lacking: str = ""


NOTHING_SHOWN = Item()


class Library:
    """The knowledge bases that items were taken from.

    Args:
        pictures: where those of items are put.
        folders: where to look besides where a run found its base.
    """

    def __init__(self, pictures: Pictures, folders: Sequence[Path] = ()) -> None:
        self._pictures, self._folders = pictures, [str(folder) for folder in folders]
        self._bases: dict[str, KnowledgeBase | str] = {}
        self._items: dict[tuple[Path, str], Item] = {}

    def base(self, run: Evaluation, usage: Mapping[str, Any]) -> KnowledgeBase | str:
        """The base that an answer's items are of, or why it cannot be had."""
        told = str((usage.get("fingerprints") or {}).get("knowledge", ""))
        if not told:
            return "the log does not tell of which knowledge base they are"
        reasons = []
        for folder in [*self._folders, micro.resolve(run.arguments.get("knowledge", micro.NAME), "knowledge")]:
            base = self._opened(folder)
            if isinstance(base, KnowledgeBase) and base.fingerprint.startswith(told):
                return base
            changed = f"knowledge base {folder} is not the one that was used ({told})"
            reasons.append(base if isinstance(base, str) else changed)
        return f"{reasons[-1]}; give the folder of that base with --knowledge"

    def item(self, base: KnowledgeBase, id_: str) -> Item:
        """An item of a base by its id."""
        key = base.folder, id_
        if key not in self._items:
            if len(self._items) == _REMEMBERED:
                self._items.clear()
            self._items[key] = self._read(base, id_)
        return self._items[key]

    def _read(self, base: KnowledgeBase, id_: str) -> Item:
        number = base.find(id_)
        if number is None:
            return Item(lacking=f"knowledge base {base.folder} has no such item")
        try:
            row = base.row(number)
        except UserError as error:  # a damaged file
            return Item(lacking=str(error))
        image, lacking = ("", "it has no picture") if row.image is None else self._pictures.add(row.image)
        return Item(row.title, row.text, image, lacking)

    def _opened(self, folder: str) -> KnowledgeBase | str:
        if folder not in self._bases:
            try:
                self._bases[folder] = KnowledgeBase.open(folder)
            except UserError as error:
                self._bases[folder] = str(error).partition(";")[0]
        return self._bases[folder]


def _documents(name: str, include_path: str | None) -> Documents | str:
    """Those of a task, or why there are none."""
    try:
        found = {task.task: task for task in documents([name], include_path=include_path)}
    except Exception as error:  # lmms-eval's tasks load what they like and raise what they like
        return f"the data of {name} is not on this machine ({one_line(error)})"
    return found.get(name, f"lmms-eval has no task {name} here")
