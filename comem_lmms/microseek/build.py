"""Writes MicroSeek: a seed in, a knowledge base and the test questions as Parquet out, the same bytes every time.

The realms are written as a Parquet file such as a user has, of which `knowledge.build` makes the base.

Images are BMP, which has no compressor whose version could change the bytes; Parquet compresses them.
"""

import io
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from comem_lmms import knowledge as kb
from comem_lmms.knowledge import KnowledgeBase, sources
from comem_lmms.knowledge.writing import remove
from comem_lmms.microseek import world
from comem_lmms.microseek.emblem import Emblem, View, draw

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_REALMS = pa.schema([*((name, pa.string()) for name in ("id", "title", "text", "source")), ("image", _IMAGE)])
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
    with tempfile.TemporaryDirectory() as folder:
        write_realms(Path(folder) / "realms.parquet", realms)
        remove(knowledge)
        source = sources.find(folder)
        about = {"name": "microseek", "source": f"comem_lmms.microseek, seed {seed}", "licence": "Apache-2.0"}
        kb.build(replace(source, settings={"seed": seed}, about=about), knowledge)
    return KnowledgeBase.open(knowledge)


def write_realms(path: Path, realms: list[world.Realm]) -> None:
    """One row a realm, as ``comem-lmms kb build`` takes them."""
    cells = [
        {
            "id": r.id,
            "title": r.name,
            "text": r.text,
            "source": "",
            "image": {"bytes": bmp(r.emblem, r.portrait), "path": None},
        }
        for r in tqdm(realms, desc="Drawing", unit="realm")
    ]
    pq.write_table(pa.Table.from_pylist(cells, schema=_REALMS), path)


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
