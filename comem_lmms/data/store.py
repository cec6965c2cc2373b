"""Prepared data sets on disk: rows in, a folder that ``datasets.load_from_disk`` opens out.

``save_to_disk`` would copy every image into its tables, once a question. So the folder is written here, with the path
of the image in its place; it is decoded when a row is asked for.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from comem_lmms.data.places import MANIFEST, SPLITS
from comem_lmms.files import files_fingerprint, read_json, write_json

if TYPE_CHECKING:
    from datasets import Features

_TABLE = "data-00000-of-00001.arrow"


def write(
    folder: Path,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    columns: Mapping[str, str],
    about: Mapping[str, Any],
) -> None:
    """Writes splits as a data set, whole or not at all, in place of what is there; ``about`` goes into the manifest."""
    features = _features(columns)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, rows in splits.items():
        (partial / name).mkdir(parents=True)
        _write_split(partial / name, name, rows, features)
    write_json(partial / SPLITS, {"splits": list(splits)})
    write_json(partial / MANIFEST, about)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def is_written(folder: Path) -> bool:
    """Whether there is a data set."""
    return (folder / SPLITS).is_file() and (folder / MANIFEST).is_file()


def manifest(folder: Path) -> dict[str, Any]:
    """What `write` was told about a data set."""
    return read_json(folder / MANIFEST)


def image_paths(folder: Path) -> set[str]:
    """The paths of all images of a data set, without opening one."""
    return {path for paths in _image_columns(folder) for path in paths.to_pylist()}


def some_image_paths(folder: Path) -> set[str]:
    """The paths of a few images, from all over each split: what is moved or deleted is so as a whole, mostly."""
    return {
        path
        for paths in _image_columns(folder)
        for path in paths.take(pa.array(range(0, len(paths), max(1, len(paths) // 16)))).to_pylist()
        if path and Path(path).is_absolute()  # else the image is in the table
    }


def _image_columns(folder: Path) -> Iterator[pa.Array]:
    for split in read_json(folder / SPLITS)["splits"]:
        with pa.memory_map(str(folder / split / _TABLE)) as source:
            yield pa.ipc.open_stream(source).read_all().column("image").combine_chunks().field("path")


def _write_split(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], features: "Features") -> None:
    from datasets import Dataset, DatasetInfo

    columns = {column: [row[column] for row in rows] for column in features}
    table = Dataset.from_dict(columns, features=features).with_format("arrow")[:]
    with pa.OSFile(str(folder / _TABLE), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
        writer.write_table(table.cast(features.arrow_schema), max_chunksize=1_000)
    DatasetInfo(features=features).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": _TABLE}],
        "_fingerprint": files_fingerprint([folder / _TABLE])[:16],  # by content: results of map() are kept by it
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": name,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _features(columns: Mapping[str, str]) -> "Features":
    from datasets import Features, Image, List, Value

    kinds = {"string": Value("string"), "strings": List(Value("string")), "floats": List(Value("float64"))}
    return Features({name: Image() if kind == "image" else kinds[kind] for name, kind in columns.items()})
