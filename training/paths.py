"""Keeps paths of this machine out of what others read: settings or texts in, the same with last parts of paths out."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# What may be a path in a text: nothing that HTML, a table or a list is made of. No address of the web begins one.
_WORD = re.compile(r"(?<![\w/<.~-])(?!(?<=:)//\w)(?:~|\.{1,2})?(?:[\w.~@+\\-]*/)+[\w.~@+\\-]*")
_START = re.compile(r"(?:\w+:)?(?:~|/(?!/\w)|\.{1,2}/)|file:")


class Paths:
    """The paths in what a training and evaluations were given, with what others are told in their place.

    Args:
        given: settings, manifests or model arguments, nested in any way.
        names: of paths that have one.
    """

    def __init__(self, given: Any, names: Mapping[str, str]) -> None:
        places = {_place(place): name for place, name in names.items()}
        found = set(filter(_is_path, _values(given)))
        self._told = {value: places.get(_place(value)) or _last(value) for value in found}
        longest_first = "|".join(map(re.escape, sorted(found, key=len, reverse=True)))
        self._known = re.compile(rf"(?<![\w/.~-])(?:{longest_first})(?![\w/])") if found else None

    def cut(self, content: Any) -> Any:
        """The same content, every text in it with these paths cut."""
        if isinstance(content, str):
            return self._known.sub(lambda match: self._told[match.group()], content) if self._known else content
        if isinstance(content, Mapping):
            return {name: self.cut(value) for name, value in content.items()}
        return [self.cut(value) for value in content] if isinstance(content, list | tuple) else content


def without_paths(text: str, names: Mapping[str, str]) -> str:
    """A text in which what looks like a path of this machine is cut to its last part.

    A path with spaces does not look like one; `Paths` knows those that were given.

    Args:
        names: of paths that have one.
    """

    def shortened(match: re.Match[str]) -> str:
        word = match.group().replace("\\", "")  # which Markdown puts before what it would read
        path = Path(word)
        known = next((name for place, name in names.items() if path == Path(place)), None)
        is_path = known or word[0] in "/~" or word.startswith(("./", "../")) or os.path.exists(word)
        return (known or _last(match.group())) if is_path and len(path.parts) > 1 else match.group()

    return _WORD.sub(shortened, text)


def _values(given: Any) -> Iterator[str]:
    """All texts, and the values in texts of the form ``name=value,name=value``."""
    if isinstance(given, str):
        yield given
        yield from (part.partition("=")[2] for part in given.split(","))
    elif isinstance(given, Mapping):
        for value in given.values():
            yield from _values(value)
    elif isinstance(given, list | tuple):
        for value in given:
            yield from _values(value)


def _is_path(value: str) -> bool:
    is_one = _START.match(value) is not None or os.path.exists(value)
    return is_one and len(Path(value).parts) > 1


def _place(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


def _last(path: str) -> str:
    return Path(path).name
