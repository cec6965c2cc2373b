"""What the entry point ``lmms_eval.models`` calls: names and paths only, nothing heavy, never an exception.

lmms-eval loads entry points when ``lmms_eval.models`` is first imported and gives up on all of them if one raises.
It has no entry point for tasks, so the task folder is added to every ``TaskManager`` once ``lmms_eval.tasks`` is
imported (which takes seconds, and is therefore not imported here).
"""

import importlib.util
import logging
import sys
from collections.abc import Callable
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

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

    for register in (_list_models, _register_tasks):
        try:
            register()
        except Exception as error:  # an lmms-eval that differs must not cost other plugins their models
            log.warning("comem-lmms: %s failed (%r); is this lmms-eval supported?", register.__name__, error)
    return [ModelManifest(model_id=name, chat_class_path=path) for name, path in MODELS.items()]


def task_folder() -> str:
    """Where the YAML files are, in a wheel as in an editable install."""
    spec = importlib.util.find_spec("comem_lmms.tasks")
    return next(iter(spec.submodule_search_locations))  # type: ignore[union-attr, arg-type]


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
            _add_tasks(module)

        return exec_module


def _add_tasks(tasks: ModuleType) -> None:
    original = tasks.TaskManager.initialize_tasks

    @wraps(original)
    def initialize_tasks(self: Any, include_path: Any = None, include_defaults: bool = True) -> dict[str, Any]:
        paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
        return original(self, include_path=[*paths, task_folder()], include_defaults=include_defaults)

    tasks.TaskManager.initialize_tasks = initialize_tasks
