"""Folders of results in, a folder with the site out: one page, its data in chunks, its pictures as files.

A chunk is a script that hands a text to the page, since a page that is opened as a file may load scripts but no data.
The page loads the list at once, the words when somebody searches, and the details of a question when it is opened.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from comem_lmms.errors import UserError, one_line
from comem_lmms.explorer.pictures import FOLDER as IMAGES
from comem_lmms.explorer.pictures import Pictures
from comem_lmms.explorer.questions import Log, read
from comem_lmms.explorer.records import Record, Recorder
from comem_lmms.explorer.scores import judges, splits
from comem_lmms.explorer.sources import Library, Task
from comem_lmms.files import new_folder, read_json, write_json
from comem_lmms.report.lines import Line
from comem_lmms.report.page import SHARED_SCRIPT, SHARED_STYLE, filled, policy_hash
from comem_lmms.report.reading import Folders

FOLDER = Path(__file__).parent
PAGE, DATA, MANIFEST, WHAT = "index.html", "data", "manifest.json", "comem-lmms explorer"
LISTED, OPENED = 500, 25  # questions of a chunk of the list, and of details


class Built(NamedTuple):
    """A site.

    Attributes:
        page: to be opened.
        questions: how many there are.
        pictured: how many of them show a picture.
        lines, tasks: their names.
        problems: results that are not in it, and why.
    """

    page: Path
    questions: int
    pictured: int
    lines: Sequence[str]
    tasks: Sequence[str]
    problems: Sequence[str]


def build(
    folders: Folders, out: str | Path, include_path: str | None = None, knowledge: Sequence[str | Path] = ()
) -> Built:
    """Writes the site of all that was logged below folders, in place of one that is there.

    Args:
        folders: one or several; they are searched with all folders below.
        out: made if need be; not touched before the new site is whole.
        include_path: a folder with more tasks, as for lmms-eval.
        knowledge: folders of knowledge bases that are not where the runs found them.

    Raises:
        UserError: there are no results or no samples, ``out`` holds something else, or is the working directory.
    """
    out = Path(out)
    _check(out)
    log = read(folders)
    with _replacing(out.resolve()) as folder:
        writer = _Writer(folder)
        pictures = Pictures(folder)
        library = Library(pictures, [Path(base) for base in knowledge])
        about = [
            writer.add(task, place, log, Task(task, include_path), library, pictures)
            for place, task in enumerate(log.tasks)
        ]
        writer.finish({"tasks": about, "lines": [_about(line) for line in log.lines], "problems": list(log.problems)})
    names = [line.name for line in log.lines]
    return Built(out / PAGE, writer.questions, writer.pictured, names, log.tasks, log.problems)


class _Writer:
    """Writes records in chunks."""

    def __init__(self, folder: Path) -> None:
        self.questions = self.pictured = 0
        self._folder, self._records = folder, list[Record]()
        (folder / DATA).mkdir()

    def add(self, name: str, place: int, log: Log, task: Task, library: Library, pictures: Pictures) -> dict[str, Any]:
        """Writes the questions of a task; returns what the page has to know of it."""
        questions = log.questions(name)
        by = judges(questions)
        recorder = Recorder(place, by, splits(questions), len(log.lines), library, pictures)
        for question in tqdm(questions, desc=name, unit="question"):
            self._add(recorder.record(question, task.asked(question)))
        return {"name": name, "metrics": by}

    def finish(self, about: dict[str, Any]) -> None:
        """Writes what is left, and the page."""
        self._flush()
        self._write("site", {**about, "questions": self.questions, "listed": LISTED, "opened": OPENED})
        (self._folder / PAGE).write_text(page(), encoding="utf-8")
        write_json(self._folder / MANIFEST, {"what": WHAT, "questions": self.questions})

    def _add(self, record: Record) -> None:
        self._records.append(record)
        self.questions += 1
        self.pictured += bool(record.row["image"])
        if len(self._records) == LISTED:
            self._flush()

    def _flush(self) -> None:
        if not self._records:
            return
        first = self.questions - len(self._records)
        self._write(f"list-{first // LISTED}", [record.row for record in self._records])
        self._write(f"words-{first // LISTED}", [record.words for record in self._records])
        for start in range(0, len(self._records), OPENED):
            details = [record.details for record in self._records[start : start + OPENED]]
            self._write(f"details-{(first + start) // OPENED}", details)
        self._records.clear()

    def _write(self, name: str, content: Any) -> None:
        # As a text, which JSON.parse reads: in a script "__proto__" would be more than a name. What is half of a
        # character in a log cannot be written as UTF-8.
        text = json.dumps(json.dumps(content, ensure_ascii=False, allow_nan=False), ensure_ascii=False)
        (self._folder / DATA / f"{name}.js").write_bytes(f'explorer("{name}", {text});\n'.encode("utf-8", "replace"))


def page() -> str:
    """The page, which is the same for all sites."""
    style = "\n".join([SHARED_STYLE, (FOLDER / "page.css").read_text(encoding="utf-8")])
    script = SHARED_SCRIPT + (FOLDER / "page.js").read_text(encoding="utf-8")
    parts = {"style": style, "script": script, "style_hash": policy_hash(style), "script_hash": policy_hash(script)}
    return filled((FOLDER / PAGE).read_text(encoding="utf-8"), parts)


def _about(line: Line) -> dict[str, Any]:
    more = [part for part in (line.model, line.knowledge) if part != "-"]
    return {"name": line.name, "more": ", ".join(more), "is_control": line.is_control}


def _check(out: Path) -> None:
    """Raises UserError if a folder holds anything but a site, all of which is replaced, or is one that is worked in."""
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the working directory, so it cannot be replaced; name another folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file() or read_json(out / MANIFEST).get("what") != WHAT:
        raise UserError(f"{out} holds something else than a site of `comem-lmms explore`; name another folder")
    if foreign := sorted({path.name for path in out.iterdir()} - {PAGE, MANIFEST, DATA, IMAGES}):
        raise UserError(
            f"{out} holds {foreign[0]} beside a site of `comem-lmms explore`; move it, or name another folder"
        )


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``out`` when the context ends, and is removed if it fails.

    Raises:
        UserError: it cannot be written.
    """
    fresh, old = (out.with_name(f"{out.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    try:
        with new_folder(fresh) as folder:
            yield folder
        if out.exists():
            os.rename(out, old)
        os.rename(fresh, out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or out} ({error.strerror or one_line(error)}); put that right, or name "
            "another folder"
        ) from error
