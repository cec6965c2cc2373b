"""Training data as the interface has it, made of MicroSeek's questions."""

import json

import datasets

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        **{name: datasets.Value("string") for name in ("prompt", "answer", "task", "language")},
        "item_ids": datasets.List(datasets.Value("string")),
        "document": datasets.Value("int64"),
    }
)


def write(folder, rows, knowledge):
    """Training data as the interface has it."""
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    datasets.Dataset.from_dict(columns, features=FEATURES).save_to_disk(str(folder))
    about = {"fingerprint": knowledge.fingerprint, "folder": str(knowledge.folder)}
    (folder / "manifest.json").write_text(json.dumps({"knowledge": about, "samples": len(rows)}))
    return folder


def rows_of(questions, ids, n, ks=(3,)):
    """Samples about the first questions, with so many items each, the right one first."""
    return [
        {
            "image": q["image"],
            "prompt": q["question"],
            "answer": f"It is {q['answer']}.",
            "item_ids": [q["item_id"], ids[i], ids[i + 1], ids[i + 2]][: ks[i % len(ks)]],
            "task": "microseek",
            "document": i,
            "language": "en",
        }
        for i, q in enumerate(questions[:n])
    ]
