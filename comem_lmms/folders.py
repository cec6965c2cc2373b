"""The folder of a prepared data set by its name, for YAML files: ``!function comem_lmms.folders.infoseek``."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from loguru import logger

from comem_lmms import data
from comem_lmms.errors import UserError

_needed: ContextVar[bool] = ContextVar("_needed", default=True)


def __getattr__(name: str) -> str:
    if name.startswith("_"):
        raise AttributeError(name)
    return folder(name)


def folder(name: str) -> str:
    """The folder of a prepared data set.

    Raises:
        UserError: it has not been prepared.
    """
    try:
        return data.prepared(name) if _needed.get() else name
    except UserError as error:  # lmms-eval hides it behind an ImportError
        logger.error(str(error))
        raise


@contextmanager
def not_needed() -> Iterator[None]:
    """Lets YAML files be read where no data set has been prepared."""
    token = _needed.set(False)
    try:
        yield
    finally:
        _needed.reset(token)
