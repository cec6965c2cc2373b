"""What the entry point ``lmms_eval.models`` calls: names and paths only, nothing heavy, never an exception.

lmms-eval loads entry points when ``lmms_eval.models`` is first imported and gives up on all of them if one raises.
It has no entry point for tasks, so the task folder is added to every ``TaskManager`` once ``lmms_eval.tasks`` is
imported (which takes seconds, and is therefore not imported here). lmms-eval reads a task only once the model is
loaded; ours are read when its command line looks them up, so that missing data is noticed before.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from comem_lmms import command_line
from comem_lmms.errors import UserError

log = logging.getLogger(__name__)

MODELS = {
    "baseline": "comem_lmms.models.baseline.Baseline",
    "vanilla_rag": "comem_lmms.models.vanilla_rag.VanillaRAG",
    "comem": "comem_lmms.models.comem.CoMEM",
}
_TASKS_MODULE = "lmms_eval.tasks"


def manifests() -> list[Any]:
    """Registers our tasks and returns the manifests of our models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    _attempt(_list_models)
    _attempt(_register_tasks)
    return [ModelManifest(model_id=name, chat_class_path=path) for name, path in MODELS.items()]


def task_folder() -> str:
    """Where the YAML files are, in a wheel as in an editable install."""
    spec = importlib.util.find_spec("comem_lmms.tasks")
    return next(iter(spec.submodule_search_locations))  # type: ignore[union-attr, arg-type]


def _attempt(register: Callable[..., None], *arguments: Any) -> None:
    """An lmms-eval that differs must not cost other plugins their models, or itself its tasks."""
    try:
        register(*arguments)
    except Exception as error:
        log.warning("comem-lmms: %s failed (%r); is this lmms-eval supported?", register.__name__, error)


def _list_models() -> None:
    """``lmms-eval models`` prints this dictionary, not the registry."""
    sys.modules["lmms_eval.models"].AVAILABLE_CHAT_TEMPLATE_MODELS.update(MODELS)  # type: ignore[attr-defined]


def _register_tasks() -> None:
    if _TASKS_MODULE in sys.modules:
        _add_tasks(sys.modules[_TASKS_MODULE])
    else:
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    """Lets the import of ``lmms_eval.tasks`` take its course, then adds our tasks."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != _TASKS_MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._then_add_tasks(spec.loader)  # type: ignore[method-assign, assignment]
        return spec

    def _then_add_tasks(self, loader: Loader) -> Callable[[ModuleType], None]:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            execute(module)
            _attempt(_add_tasks, module)

        return exec_module


def _add_tasks(tasks: ModuleType) -> None:
    manager = tasks.TaskManager
    initialize, match, load = manager.initialize_tasks, manager.match_tasks, manager.load_task_or_group

    @wraps(initialize)
    def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True) -> dict[str, Any]:
        paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
        return initialize(self, include_path=[*paths, task_folder()], include_defaults=include_defaults)

    @wraps(match)
    def match_tasks(self: Any, task_list: Any) -> list[str]:
        names = match(self, task_list)
        if lacking := _lacks(self, names):
            if not command_line.runs():
                raise UserError("\n".join(lacking))
            command_line.stop(*lacking)
        return names

    @wraps(load)
    def load_task_or_group(self: Any, task_list: Any = None, *arguments: Any, **named: Any) -> dict[str, Any]:
        try:
            return load(self, task_list, *arguments, **named)
        except Exception as error:
            if lacking := _lacks(self, [task_list] if isinstance(task_list, str) else task_list or []):
                raise UserError("\n".join(lacking)) from error
            raise

    manager.initialize_tasks, manager.match_tasks = initialize_tasks, match_tasks
    manager.load_task_or_group = load_task_or_group


def _lacks(manager: Any, names: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(_lacking(manager, names, set())))


def _lacking(manager: Any, names: Iterable[Any], seen: set[str]) -> Iterator[str]:
    """What our tasks among these, and among the members of groups, lack: reading their YAML files asks for the data."""
    for name in names:
        name = name.get("task") if isinstance(name, dict) else name
        if not isinstance(name, str) or name in seen or name not in manager.task_index:
            continue
        seen.add(name)
        entry = manager.task_index[name]
        members = entry.get("task")
        if entry["yaml_path"] != -1 and Path(task_folder()) in Path(entry["yaml_path"]).parents:
            try:
                config = manager._get_config(name)
                _ask_the_hub(config)
            except Exception as error:
                if (ours := _user_error(error)) is None:
                    raise
                yield str(ours)
                continue
            members = config.get("task")
        if isinstance(members, list):
            yield from _lacking(manager, members, seen)


def _ask_the_hub(config: dict[str, Any]) -> None:
    """Raises UserError if a data set that lmms-eval is going to load from the Hub is not there, nor in its cache."""
    from comem_lmms.data import hub, sources

    for source in sources.SOURCES.values():
        if source.hub and source.hub == config.get("dataset_path"):
            hub.find(source)


def _user_error(error: BaseException | None) -> BaseException | None:
    """What is behind an error, if it is for the user; lmms-eval wraps errors of modules that a YAML file names."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error
