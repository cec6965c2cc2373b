"""Made-up documents of every benchmark, in the form that the real ones have, where lmms-eval looks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pictures

TEXT, NUMBER, PICTURE = Value("string"), Value("int64"), Image()
TEXTS = List(TEXT)


def picture(hue: int = 0) -> Pictures.Image:
    """One colour, by its hue from 0 to 255."""
    return Pictures.new("HSV", (56, 56), (hue % 256, 200, 200)).convert("RGB")


# ---- rows -----------------------------------------------------------------------------------------------------------

INFOSEEK = {
    "data_id": TEXT,
    "image_id": TEXT,
    "image": PICTURE,
    "question": TEXT,
    "answer": TEXTS,
    "answer_eval": TEXTS,
    "answer_range": List(Value("float64")),
    "data_split": TEXT,
    "question_type": TEXT,
}
TRANSLATED = {**INFOSEEK, "answer_translated": TEXTS, "answer_eval_translated": TEXTS}
OVEN = {
    name: PICTURE if name == "image" else TEXT
    for name in ("data_id", "image_id", "image", "question", "entity_id", "entity_text", "data_split")
}
VIQUAE = {
    "id": TEXT,
    "image": PICTURE,
    "question": TEXT,
    "answers": TEXTS,
    "original_answer": TEXT,
    "wikidata_id": TEXT,
}
OKVQA = {"question_id": TEXT, "image": PICTURE, "question": TEXT, "answers": TEXTS, "question_type": TEXT}
EVQA = {**OKVQA, "wikipedia_url": TEXT, "wikipedia_title": TEXT}
AOKVQA = {
    "image": PICTURE,
    "question_id": TEXT,
    "question": TEXT,
    "choices": TEXTS,
    "correct_choice_idx": Value("int8"),
    "direct_answers": TEXT,
    "difficult_direct_answer": Value("bool"),
    "rationales": TEXTS,
}
MRAG = {
    **dict.fromkeys(("id", "aspect", "scenario"), TEXT),
    "image": PICTURE,
    "gt_images": List(PICTURE),
    **dict.fromkeys(("question", "A", "B", "C", "D", "answer_choice", "answer", "image_type", "source"), TEXT),
    "retrieved_images": List(PICTURE),
}
CVQA = {
    "image": PICTURE,
    "ID": TEXT,
    "Subset": TEXT,
    "Question": TEXT,
    "Translated Question": TEXT,
    "Options": TEXTS,
    "Translated Options": TEXTS,
    "Label": NUMBER,
    "Category": TEXT,
    "Image Type": TEXT,
    "Image Source": TEXT,
    "License": TEXT,
}


def _row(features: dict[str, Any], number: int, **cells: Any) -> dict[str, Any]:
    """A row whose other cells are made up of the column's name and the row's number."""
    made: dict[str, Any] = {}
    for name, feature in features.items():
        if feature is PICTURE:
            made[name] = picture(40 * number)
        elif isinstance(feature, List):
            made[name] = [picture(40 * number + 9 * n) for n in range(5)] if feature.feature is PICTURE else []
        else:
            made[name] = f"{name}-{number}" if feature is TEXT else 0
    return made | cells


def infoseek(split: str = "val", features: dict[str, Any] = INFOSEEK) -> list[dict[str, Any]]:
    """A text and a time of unseen questions, a text and a number of unseen entities; one split alone if it is train."""
    kinds = [
        ("String", {"answer": ["Oslo"], "answer_eval": ["Oslo", "City of Oslo"]}),
        ("Time", {"answer": ["1869"], "answer_eval": ["1869", "1868", "1870"]}),
        ("String", {"answer": ["Rome"], "answer_eval": ["Rome"]}),
        ("Numerical", {"answer": ["255"], "answer_eval": [], "answer_range": [229.5, 280.5]}),
    ]
    rows = []
    for number, (kind, cells) in enumerate(kinds):
        data_split = "train" if split == "train" else f"val_unseen_{'question' if number < 2 else 'entity'}"
        cells = {"question": f"What is the capital of {number}?", "data_split": data_split, **cells}
        row = _row(features, number, question_type=kind, **cells)
        if "answer_eval_translated" in features:
            row |= {f"{name}_translated": [f"{one} es" for one in row[name]] for name in ("answer", "answer_eval")}
        rows.append(row)
    return rows


def oven(part: str) -> list[dict[str, Any]]:
    """Two seen and two unseen ones, of "query" or "entity"."""
    return [
        _row(
            OVEN,
            number,
            question=f"what is this {number}?",
            entity_id=f"Q{number % 2}",
            entity_text=("Oslo", "Rome")[number % 2],
            data_split=f"{part}_val_{'seen' if number < 2 else 'unseen'}",
        )
        for number in range(4)
    ]


def viquae() -> list[dict[str, Any]]:
    return [_row(VIQUAE, n, question=f"who is this {n}?", answers=["Levi's", "levis"]) for n in range(2)]


def okvqa(features: dict[str, Any] = OKVQA) -> list[dict[str, Any]]:
    answers = ["racing"] * 6 + ["motocross"] * 2 + ["riding"] * 2
    return [_row(features, n, question=f"What sport is this {n}?", answers=answers) for n in range(2)]


def aokvqa() -> list[dict[str, Any]]:
    rows = [
        _row(AOKVQA, n, question=f"What is it {n}?", choices=["skiing", "race", "bike", "boat"], correct_choice_idx=1)
        for n in range(3)
    ]
    return [
        row | {"direct_answers": str(["racing"] * 9 + ["bike"]), "difficult_direct_answer": n == 1}
        for n, row in enumerate(rows)
    ]


def mrag_bench() -> list[dict[str, Any]]:
    scenarios = [
        "Angle",
        "Partial",
        "Scope",
        "Obstruction",
        "Temporal",
        "Deformation",
        "Incomplete",
        "Biological",
        "Others",
    ]
    return [
        _row(MRAG, n, scenario=scenario, question="Which dog is it?", answer_choice="ABCD"[n % 4])
        for n, scenario in enumerate(scenarios)
    ]


def cvqa(subsets: Sequence[str]) -> list[dict[str, Any]]:
    """Two questions a subset."""
    return [
        _row(CVQA, n, Subset=subset, Question="¿Dónde?", Options=["Sol", "Mayor", "Retiro", "Prado"], Label=n % 4)
        for n, subset in enumerate([*subsets, *subsets])
    ]


# ---- where they lie -------------------------------------------------------------------------------------------------


def save_prepared(root: Path) -> None:
    """As `comem-lmms data prepare` leaves them."""
    sets: dict[str, dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]] = {
        "infoseek": {"validation": (INFOSEEK, infoseek())},
        "infoseek_paper": {"validation": (INFOSEEK, infoseek())},
        "infoseek_train": {"train": (INFOSEEK, infoseek("train"))},
        **{
            f"infoseek_{language}": {"validation": (TRANSLATED, infoseek(features=TRANSLATED))}
            for language in ("es", "pt", "zh", "ru", "bg")
        },
        **{name: {part: (OVEN, oven(part)) for part in ("query", "entity")} for name in ("oven", "oven_paper")},
        "viquae": {"test": (VIQUAE, viquae())},
        "okvqa_train": {"train": (OKVQA, okvqa())},
        "evqa_train": {"train": (EVQA, okvqa(EVQA))},
    }
    for name, splits in sets.items():
        DatasetDict(
            {split: Dataset.from_list(rows, features=Features(features)) for split, (features, rows) in splits.items()}
        ).save_to_disk(root / name)


def save_downloaded(cache: Path, cvqa_subsets: Sequence[str]) -> None:
    """As `datasets` keeps what it once loaded from the Hub."""
    _save_downloaded(cache, "lmms-lab/OK-VQA", "val2014", OKVQA, okvqa())
    _save_downloaded(cache, "HuggingFaceM4/A-OKVQA", "validation", AOKVQA, aokvqa())
    _save_downloaded(cache, "uclanlp/MRAG-Bench", "test", MRAG, mrag_bench())
    _save_downloaded(cache, "afaji/cvqa", "test", CVQA, cvqa(cvqa_subsets))


def _save_downloaded(cache: Path, name: str, split: str, features: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from datasets import load_dataset_builder
    from datasets.naming import camelcase_to_snakecase

    parquet = cache / "made.parquet"
    Dataset.from_list(rows, features=Features(features)).to_parquet(parquet)
    owner, short = name.split("/")
    short = camelcase_to_snakecase(short)
    folder = cache / f"{owner}___{short}/default/0.0.0" / ("0" * 40)
    builder = load_dataset_builder("parquet", data_files={split: str(parquet)}, cache_dir=str(cache / "made"))
    builder.dataset_name = short
    builder.download_and_prepare(str(folder))
    parquet.unlink()
