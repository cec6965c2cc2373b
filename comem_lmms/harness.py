"""Tasks of lmms-eval by their names, loaded as it loads them, their documents with what can be asked of them out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from comem_lmms.errors import UserError, one_line
from comem_lmms.queries import query_of
from comem_lmms.records import Query
from comem_lmms.runs.facts import Declared, Facts, declared, facts


class Documents:
    """The documents of a task that a run of lmms-eval would ask.

    Attributes:
        task: its name.
        declared: what the task says of its documents' right answers, as in `facts`.
    """

    def __init__(self, task: str, loaded: Any, limit: int | None = None) -> None:
        self.task = task
        self.declared: Declared = declared(task, loaded.config.metadata)
        self._loaded = loaded
        self._all, self._texts = loaded.eval_docs, loaded.eval_docs_no_media
        self._limit = limit

    def __len__(self) -> int:
        return len(self._all) if self._limit is None else min(self._limit, len(self._all))

    @property
    def columns(self) -> list[str]:
        """Of the documents, without images."""
        return list(self._texts.column_names)

    def query(self, number: int) -> Query:
        """What a document asks, as `query_of` has it."""
        query = query_of(self._all, number, self._loaded.doc_to_messages, self.task)
        return replace(query, entity=self.facts(number).entity)

    def value(self, number: int, column: str) -> Any:
        """One cell of a document."""
        return self._texts[number][column]

    def facts(self, number: int) -> Facts:
        """What a document tells about its right answer."""
        return facts(self._texts[number], self.declared)

    def target(self, number: int) -> str:
        """The right answer of a document, as a sample log has it."""
        return str(self._loaded.doc_to_target(self._texts[number]))

    def asked(self, number: int) -> str:
        """The prompt of a document, as a sample log has it."""
        return str(self._loaded.doc_to_text(self._texts[number]))

    def image_files(self, number: int) -> list[bytes]:
        """The images of a document as its data set keeps them, in the format of their files."""
        cells = self._undecoded[number].values() if self._undecoded is not None else ()
        return [cell["bytes"] or Path(cell["path"]).read_bytes() for cell in cells if cell is not None]

    @property
    def metrics(self) -> list[str]:
        """What the task measures, the metric that counts first."""
        return list(self._loaded.aggregation())

    def scores(self, number: int, output: str) -> dict[str, Any]:
        """What an output to a document contributes to each metric."""
        return self._loaded.process_results(self._texts[number], [output])

    @cached_property
    def _undecoded(self) -> Any:
        """The columns with an image, as they are stored; None if there are none."""
        from datasets import Image

        features = getattr(self._all, "features", None) or {}
        names = [name for name, feature in features.items() if isinstance(feature, Image)]
        if not names:
            return None
        columns = self._all.select_columns(names)
        for name in names:
            columns = columns.cast_column(name, Image(decode=False))
        return columns


def matching(names: Sequence[str], include_path: str | None = None, model: str = "vanilla_rag") -> list[str]:
    """The tasks and groups that names or patterns mean, as for ``--tasks``; no data is read.

    Raises:
        UserError: there is none of a name.
    """
    from lmms_eval.utils import pattern_match

    manager = _manager(include_path, model)
    for name in names:
        if not pattern_match([name], manager.all_tasks):
            close = ", ".join(get_close_matches(name, manager.all_tasks, n=3)) or "`lmms-eval --tasks list`"
            raise UserError(f"lmms-eval has no task {name!r}; did you mean {close}?")
    return list(manager.match_tasks(list(names)))


def documents(
    names: Sequence[str], limit: int | None = None, include_path: str | None = None, model: str = "vanilla_rag"
) -> list[Documents]:
    """The documents of tasks and of all tasks of groups, each task once.

    Args:
        names: of tasks, groups and tags, or patterns, as for ``--tasks``.
        limit: so many of each task, from the first.
        include_path: a folder with more tasks.
        model: as lmms-eval calls it; it decides how a question is worded, not what its image is.

    Raises:
        UserError: there is no such task, or it is of a kind that has no chat to ask.
        SystemExit: data of a task of ours is missing, which is printed.
    """
    found = matching(names, include_path, model)
    tasks = dict(_single(load(_manager(include_path, model), found)))
    for name, task in tasks.items():
        if not hasattr(task, "doc_to_messages"):
            raise UserError(f"task {name} is a class of its own without doc_to_messages; it has no chat to ask")
    return [Documents(name, task, limit) for name, task in sorted(tasks.items())]


@cache
def _manager(include_path: str | None, model: str) -> Any:
    """Kept, since it reads all YAML files of lmms-eval; what is in them is read again for every task."""
    import lmms_eval.models  # noqa: F401  # loads the plugins, ours too
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=include_path, model_name=model)


def load(manager: Any, names: list[str]) -> Mapping[Any, Any]:
    """Tasks with their data, as lmms-eval's ``load_task_or_group`` gives them.

    Raises:
        UserError: the data cannot be loaded.
    """
    from tenacity import RetryError

    try:
        return manager.load_task_or_group(names, "chat")
    except (ImportError, RetryError) as error:  # lmms-eval's wrapping of what went wrong
        cause = error.last_attempt.exception() if isinstance(error, RetryError) else error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        told = one_line(cause or error)
        raise UserError(f"the documents of task {', '.join(names)} cannot be loaded ({told})") from error


def _single(tasks: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The tasks by name; those of a group are in a dictionary of their own."""
    for name, task in tasks.items():
        if isinstance(task, Mapping):
            yield from _single(task)
        else:
            yield str(name), task
