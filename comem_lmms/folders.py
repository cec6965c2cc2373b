"""The folder of a prepared data set by its name, for YAML files: ``!function comem_lmms.folders.infoseek``."""

from comem_lmms import data


def __getattr__(name: str) -> str:
    if name.startswith("_"):
        raise AttributeError(name)
    return folder(name)


def folder(name: str) -> str:
    """The folder of a prepared data set.

    Raises:
        UserError: it has not been prepared.
    """
    return data.prepared(name)
