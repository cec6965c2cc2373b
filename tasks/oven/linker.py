"""The titles that OVEN's answers are linked to, opened once a process.

Not in utils.py, which lmms-eval executes anew for each ``!function``.
"""

from threading import Lock

from comem_lmms import data
from comem_lmms.linking import TitleIndex

_opened: dict[str, TitleIndex] = {}
_lock = Lock()  # lmms-eval scores in threads


def title_index() -> TitleIndex:
    """The index of all titles.

    Raises:
        UserError: it has not been prepared.
    """
    folder = data.titles()
    with _lock:
        if folder not in _opened:
            _opened[folder] = TitleIndex.open(folder)
        return _opened[folder]


def link(text: str) -> str | None:
    """The Wikidata id of the best title for a text, by BM25; None for a text that shares no token with any."""
    found = title_index().link(text)
    return None if found is None else found.id
