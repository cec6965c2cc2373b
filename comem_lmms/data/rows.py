"""Files as their authors publish them in, rows of the prepared data sets out.

A reader takes the downloaded files in the order of the table of sources and gives the rows of each split. They hold in
``image`` the name by which the image is looked for; the path takes its place later.
"""

import csv
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem_lmms.data.sources import Kind
from comem_lmms.errors import UserError
from comem_lmms.scoring.infoseek import question_type

log = logging.getLogger(__name__)
Row = dict[str, Any]
Paths = Sequence[Path | None]

_ENTITY = ("entity_id", "entity_text")
_INFOSEEK = {
    "data_id": "string",
    "image_id": "string",
    "image": "image",
    "question": "string",
    "answer": "strings",
    "answer_eval": "strings",  # empty where the answer is a number
    "answer_range": "floats",  # lowest and highest right number, else empty
    "data_split": "string",
    "question_type": "string",  # String, Time or Numerical
    "entity_id": "string",  # of Wikidata, and the title of its page; empty where the official file could not be had
    "entity_text": "string",
}
COLUMNS: Mapping[Kind, Mapping[str, str]] = {
    "infoseek": _INFOSEEK,
    "infoseek_translated": {**_INFOSEEK, "answer_translated": "strings", "answer_eval_translated": "strings"},
    "oven": {
        "data_id": "string",
        "image_id": "string",
        "image": "image",
        "question": "string",
        "entity_id": "string",
        "entity_text": "string",
        "data_split": "string",
    },
    "viquae": {
        "id": "string",
        "image": "image",
        "question": "string",
        "answers": "strings",
        "original_answer": "string",
        "wikidata_id": "string",
    },
    "okvqa_train": {
        "question_id": "string",
        "image": "image",
        "question": "string",
        "answers": "strings",  # of ten people, as they gave them
        "question_type": "string",
    },
    "evqa_train": {
        "question_id": "string",
        "image": "image",
        "question": "string",
        "answers": "strings",
        "question_type": "string",
        "wikipedia_url": "string",
        "wikipedia_title": "string",
    },
}


def infoseek(paths: Paths, split: str) -> dict[str, list[Row]]:
    """InfoSeek's annotations and, where they could be had, the files of question types and of entities."""
    annotations, *more = paths
    return {split: list(_infoseek_rows(annotations, more).values())}


def infoseek_translated(paths: Paths, split: str) -> dict[str, list[Row]]:
    """English annotations, annotations in another language, and as above.

    The English row wins but for the question. A question that was not translated stays English, as in the reference,
    and so do its answers.
    """
    annotations, translation, *more = paths
    english = _infoseek_rows(annotations, more)
    translated = _infoseek_rows(translation, ())
    if unknown := translated.keys() - english.keys():
        raise UserError(f"{translation}: {min(unknown)} is not in {annotations}; download both again with --force")
    rows = []
    for id_, row in english.items():
        other = translated.get(id_, row)
        rows.append(
            {
                **row,
                "question": other["question"],
                "answer_translated": other["answer"],
                "answer_eval_translated": other["answer_eval"],
            }
        )
    return {split: rows}


def oven(paths: Paths, split: str) -> dict[str, list[Row]]:
    """OVEN's annotations of the query split and of the entity split."""
    columns = [name for name in COLUMNS["oven"] if name != "image"]
    return {
        name: [
            {**{column: record[column] for column in columns}, "image": record["image_id"]}
            for record in records(path, *columns)
        ]
        for name, path in zip(("query", "entity"), paths, strict=True)
    }


def viquae(paths: Paths, split: str) -> dict[str, list[Row]]:
    """ViQuAE's JSON lines, in which an image is the name of a file."""
    return {
        split: [
            {
                "id": record["id"],
                "image": record["image"],
                "question": record["input"],
                "answers": record["output"]["answer"],
                "original_answer": record["output"].get("original_answer") or "",
                "wikidata_id": record["wikidata_id"],
            }
            for record in records(paths[0], "id", "image", "input", "output", "wikidata_id")
        ]
    }


def okvqa_train(paths: Paths, split: str) -> dict[str, list[Row]]:
    """OK-VQA's zipped questions and annotations."""
    questions, annotations = (_zipped_json(path) for path in paths)
    names = annotations.get("question_types", {})  # "one" is "Vehicles and Transportation"
    by_id = {record["question_id"]: record for record in annotations["annotations"]}
    rows = []
    for record in questions["questions"]:
        if record["question_id"] not in by_id:
            raise UserError(f"{paths[1]} has no answers to question {record['question_id']} of {paths[0]}")
        answers = by_id[record["question_id"]]
        rows.append(
            {
                "question_id": str(record["question_id"]),
                "image": f"COCO_train2014_{record['image_id']:012d}",
                "question": record["question"],
                "answers": [answer["raw_answer"] for answer in answers["answers"]],
                "question_type": names.get(answers["question_type"], answers["question_type"]),
            }
        )
    return {split: rows}


def evqa_train(paths: Paths, split: str) -> dict[str, list[Row]]:
    """Encyclopedic-VQA's table, each question with its first image.

    Of several right answers each is one; parts of an answer that is a list are joined by commas. Questions have no ids,
    so they are counted.
    """
    path = paths[0]
    assert path is not None
    csv.field_size_limit(1 << 24)  # evidence can be a whole section of an article
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, record in enumerate(csv.DictReader(file)):
            image = (record.get("dataset_image_ids") or "").partition("|")[0]
            if not image or not record.get("answer"):
                raise UserError(f"{path}, row {number + 1}: no image or no answer; download it again with --force")
            rows.append(
                {
                    "question_id": f"evqa_{split}_{number:07d}",
                    "image": f"inaturalist/{image}" if record["dataset_name"] == "inaturalist" else image,
                    "question": record["question"],
                    "answers": [answer.replace("&&", ", ") for answer in record["answer"].split("|")],
                    "question_type": record["question_type"],
                    "wikipedia_url": record["wikipedia_url"],
                    "wikipedia_title": record["wikipedia_title"],
                }
            )
    return {split: rows}


READERS: Mapping[Kind, Callable[[Paths, str], dict[str, list[Row]]]] = {
    "infoseek": infoseek,
    "infoseek_translated": infoseek_translated,
    "oven": oven,
    "viquae": viquae,
    "okvqa_train": okvqa_train,
    "evqa_train": evqa_train,
}


def records(path: Path | None, id_: str, *fields: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file, each with these fields and with another id.

    Raises:
        UserError: a line is not such an object, or an id comes twice; names the file and the line.
    """
    assert path is not None
    lines: dict[str, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            record = _record(line, f"{path}, line {number}")
            if missing := [field for field in (id_, *fields) if field not in record]:
                raise UserError(f"{path}, line {number}: no {missing[0]}; download it again with --force")
            if (first := lines.setdefault(record[id_], number)) != number:
                twice = f"{id_} {record[id_]!r} is that of line {first}"
                raise UserError(f"{path}, line {number}: {twice}; download it again with --force")
            yield record


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); download it again with --force") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: a {type(record).__name__}, not an object; download it again with --force")
    return record


def _infoseek_rows(path: Path | None, more: Paths) -> dict[str, Row]:
    """By id. Types are those of the official file, or by the rule that stands in for it."""
    types, pages = (next((p for p in more if p and p.stem.endswith(end)), None) for end in ("_qtype", "_withkb"))
    entities = {record["data_id"]: record for record in records(pages, "data_id", *_ENTITY)} if pages else {}
    known = None
    if types is not None:
        known = {
            record["data_id"]: record["question_type"].capitalize()
            for record in records(types, "data_id", "question_type")
        }
    rows = {}
    for record in records(path, "data_id", "image_id", "question", "answer", "answer_eval", "data_split"):
        id_, accepted = record["data_id"], record["answer_eval"]
        number = bool(accepted) and isinstance(accepted[0], Mapping)
        if known is not None and id_ not in known:
            raise UserError(f"{types} has no type of question {id_} of {path}; delete it to have types derived")
        kind = known[id_] if known else question_type(record["answer"], accepted)
        if kind not in ("String", "Time", "Numerical") or (kind == "Numerical") is not number:
            gold = "a range" if number else "texts"
            raise UserError(
                f"{types} says that question {id_} is of type {kind!r}, but its answers are {gold}; delete it to have "
                "types derived"
            )
        rows[id_] = {
            "data_id": id_,
            "image_id": record["image_id"],
            "image": record["image_id"],
            "question": record["question"],
            "answer": record["answer"],
            "answer_eval": [] if number else accepted,
            "answer_range": [float(x) for x in accepted[0]["range"][:2]] if number else [],
            "data_split": record["data_split"],
            "question_type": kind,
            **{name: entities[id_][name] if id_ in entities else "" for name in _ENTITY},
        }
    return rows


def _zipped_json(path: Path | None) -> dict[str, Any]:
    """The only JSON file in a zip file."""
    assert path is not None
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".json") and "__MACOSX" not in name)
            return json.loads(archive.read(name))
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise UserError(f"cannot read {path} ({error}); download it again with --force") from error
