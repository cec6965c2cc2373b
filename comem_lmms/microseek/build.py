"""Writes MicroSeek: a seed in, a knowledge base and the test questions as Parquet out, the same bytes every time.

Images are BMP, which has no compressor whose version could change the bytes; Parquet compresses them.
"""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from comem_lmms.knowledge import KnowledgeBase, Row
from comem_lmms.microseek import world
from comem_lmms.microseek.emblem import Emblem, View, draw

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_QUESTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "item_id", "attribute", "question", "answer")),
        ("image", _IMAGE),
    ],
    # What `datasets` reads to decode the column.
    metadata={
        "huggingface": '{"info": {"features": {'
        + ", ".join(
            f'"{name}": {{"dtype": "string", "_type": "Value"}}'
            for name in ("id", "item_id", "attribute", "question", "answer")
        )
        + ', "image": {"_type": "Image"}}}}'
    },
)


def build(knowledge: Path, questions: Path, seed: int = world.SEED) -> KnowledgeBase:
    """Writes the knowledge base into a folder (without an index) and the questions into a Parquet file."""
    realms = world.make_realms(seed, world.N_REALMS)
    write_questions(questions, world.make_questions(seed, realms))
    rows = (Row(r.id, r.name, r.text, bmp(r.emblem, r.portrait)) for r in tqdm(realms, desc="Drawing", unit="realm"))
    return KnowledgeBase.create(
        knowledge, rows, name="microseek", source=f"comem_lmms.microseek, seed {seed}", licence="Apache-2.0"
    )


def write_questions(path: Path, questions: list[world.Question]) -> None:
    """One row a question: id, item_id (the right item of the knowledge base), attribute, question, answer, image."""
    cells = [
        {
            "id": q.id,
            "item_id": q.realm.id,
            "attribute": q.attribute,
            "question": q.question,
            "answer": q.answer,
            "image": {"bytes": bmp(q.realm.emblem, q.view), "path": None},
        }
        for q in questions
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(cells, schema=_QUESTIONS)
    pq.write_table(table, path, compression="zstd", compression_level=19)


def bmp(emblem: Emblem, view: View) -> bytes:
    """The image as a BMP file."""
    buffer = io.BytesIO()
    Image.fromarray(draw(emblem, view)).save(buffer, "BMP")
    return buffer.getvalue()
