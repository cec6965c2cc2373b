"""The data of the benchmarks: a name in, a folder that is ready for lmms-eval out, or a word on how to get it.

Tasks call `prepared`, `titles` and `verify`, which are cheap and never use the network; ``comem-lmms data prepare`` and
``comem-lmms data check`` do the rest.
"""

from pathlib import Path
from typing import Any

from comem_lmms.data import lock, places, sources
from comem_lmms.data.places import root as root
from comem_lmms.errors import UserError
from comem_lmms.files import read_json


def prepared(name: str) -> str:
    """The folder of a data set that ``comem-lmms data prepare`` made.

    Raises:
        UserError: there is none yet.
    """
    source = sources.find(name)
    if source.kind == "hub":
        raise UserError(f"{name} is loaded from the Hub ({source.hub}), it has no folder of its own")
    folder = places.root() / name
    if not (folder / places.SPLITS).is_file():
        raise UserError(f"{name} is not prepared (there is no {folder}); run: {source.command}")
    from comem_lmms.data import store

    if gone := next((path for path in store.some_image_paths(folder) if not Path(path).is_file()), None):
        raise UserError(f"{name} lacks images that it had, e.g. {gone}; run: {source.command}")
    return str(folder)


def titles() -> str:
    """The folder of OVEN's index of titles.

    Raises:
        UserError: there is none yet.
    """
    folder = places.titles_index()
    if not places.titles_indexed():
        file = places.downloads() / "oven" / "Wiki6M_ver_1_0_title_only.jsonl"
        before = "" if file.is_file() else "comem-lmms data prepare oven_paper --images FOLDER, then "
        raise UserError(f"OVEN's titles are not indexed; run: {before}comem-lmms link build {file} --out {folder}")
    return str(folder)


def verify(rows: Any, name: str, split: str) -> Any:
    """The rows of a split as they are, if they are all there.

    Those of a data set of the Hub must also ask what they asked when they were first seen.

    Raises:
        UserError: there are more or fewer than were published, or others.
    """
    source = sources.find(name)
    _count(source, split, len(rows))
    if source.kind == "hub":
        lock.compare(name, split, rows[source.id_column])
    elif source.counts[split] is None and (places.root() / name / places.MANIFEST).is_file():
        _as_prepared(source, split, len(rows))
    return rows


def revision(name: str) -> str | None:
    """The commit of a data set of the Hub: that which was prepared, else the pinned one, else None."""
    source = sources.find(name)
    return lock.read(name).get("commit") or source.revision


def _count(source: sources.Source, split: str, found: int) -> None:
    if source.kind != "hub":
        remedy = f"it was changed since it was prepared; run: {source.again} --force"
    elif revision(source.name):
        remedy = f"the cache has others than {source.hub} at {revision(source.name)}; run: {source.again}"
    else:
        remedy = lock.how_to_pin(source)
    source.count(split, found, remedy)


def _as_prepared(source: sources.Source, split: str, found: int) -> None:
    """Stands in for a published count."""
    expected = read_json(places.root() / source.name / places.MANIFEST)["splits"][split]
    if found != expected:
        raise UserError(
            f"{source.name}, split {split}: {found:,} documents, but {expected:,} were prepared; "
            f"run: {source.again} --force"
        )
