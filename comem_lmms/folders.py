"""The folder of a prepared data set by its name, for YAML files: ``!function comem_lmms.folders.infoseek``."""

from loguru import logger

from comem_lmms import data
from comem_lmms.errors import UserError


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
        return data.prepared(name)
    except UserError as error:  # lmms-eval hides it behind an ImportError
        logger.error(str(error))
        raise
