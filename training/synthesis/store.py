"""Training data on disk: samples in, a folder that ``datasets.load_from_disk`` opens out, and back.

A sample is a question's image and prompt, the answer that is to be learned, and the ids of the knowledge items that
were given, of which no copy is kept: they are in the knowledge base that ``manifest.json`` names.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from comem_lmms import __version__
from comem_lmms.errors import UserError, one_line
from comem_lmms.files import new_folder, read_json, write_json
from comem_lmms.knowledge.rows import digest_of

if TYPE_CHECKING:
    from datasets import Dataset, Features

MANIFEST, WHAT, FORMAT = "manifest.json", "training data", 1
_AT_A_TIME = 64  # samples


class Sample(NamedTuple):
    """One row.

    Attributes:
        image: the file of the question's image, None for a question without one.
        prompt: what was asked, without knowledge.
        answer: the target, all that the model wrote.
        item_ids: knowledge items that were given, best first.
        task, document: where the question is from.
        language: of prompt and answer, as an ISO 639 code.
    """

    image: bytes | None
    prompt: str
    answer: str
    item_ids: list[str]
    task: str
    document: int
    language: str

    @property
    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        rest = json.dumps(self[3:], ensure_ascii=False).encode()
        return digest_of(self.image, self.prompt.encode(), self.answer.encode(), rest).digest()


class SampleFolder:
    """A folder of samples.

    Attributes:
        folder: where it lies.
        manifest: what `write` wrote.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], rows: "Dataset") -> None:
        self.folder, self.manifest, self._rows = folder, manifest, rows

    @classmethod
    def open(cls, folder: Path) -> "SampleFolder":
        """Opens what `write` wrote.

        Raises:
            UserError: there is nothing of the kind, or it is damaged.
        """
        from datasets import Image, load_from_disk

        if not (folder / MANIFEST).is_file():
            raise UserError(
                f"no training data at {folder}: {MANIFEST} is missing; make some with "
                "`comem-lmms training-data from-samples`"
            )
        manifest = read_json(folder / MANIFEST)
        if manifest.get("what") != WHAT or manifest.get("format") != FORMAT:
            raise UserError(f"{folder / MANIFEST} is not that of training data of format {FORMAT}; make it again")
        try:
            rows = load_from_disk(str(folder))
        except Exception as error:  # pyarrow, json and datasets each raise their own
            raise UserError(f"{folder} cannot be read ({one_line(error)}); make or copy it again") from error
        if len(rows) != manifest["samples"]:
            raise UserError(
                f"{folder} has {len(rows)} samples but its manifest {manifest['samples']}; make or copy it again"
            )
        return cls(folder, manifest, rows.cast_column("image", Image(decode=False)))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Sample]:
        for row in self._rows:
            image = row["image"]
            yield Sample(**{**row, "image": image and (image["bytes"] or Path(image["path"]).read_bytes())})

    @property
    def knowledge(self) -> dict[str, str]:
        """Fingerprint and folder of the knowledge base whose items were given."""
        return self.manifest["knowledge"]

    def texts(self) -> list[dict[str, Any]]:
        """All columns but the image, a dictionary a sample."""
        return self._rows.remove_columns("image").to_list()


def write(folder: Path, samples: Iterable[Sample], about: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Writes samples, whole or not at all, and returns the manifest.

    Args:
        folder: must not be there.
        samples: are read once.
        about: what the manifest is to say besides, ``counts`` by task among it; asked when all samples are written.

    Raises:
        UserError: there are no samples, the folder is there, or it cannot be written.
    """
    try:
        with new_folder(folder) as partial:
            counted = _write_rows(partial, samples)
            if not counted["samples"]:
                raise UserError(f"no sample is left for {folder}: {_why(about())}")
            libraries = {name: version(name) for name in ("lmms-eval", "datasets", "transformers", "pillow")}
            made = {"what": WHAT, "format": FORMAT, "made_by": f"comem-lmms {__version__}", "libraries": libraries}
            manifest = {**made, **counted, **about()}
            write_json(partial / MANIFEST, manifest)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror or one_line(error)}); make room, or name another place"
        ) from error
    return manifest


def _write_rows(folder: Path, samples: Iterable[Sample]) -> dict[str, Any]:
    """Writes the table in parts, so that memory holds a few samples only; returns what the manifest says of it."""
    from datasets import Dataset

    features, digest = _features(), hashlib.sha256()
    tasks: dict[str, Counter[str]] = {}
    (folder / "rows").mkdir()
    path = folder / "rows" / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as stream:
        for part in _parts(samples):
            for sample in part:
                digest.update(sample.digest)
                tasks.setdefault(sample.task, Counter())[sample.language] += 1
            rows = [{**s._asdict(), "image": s.image and {"bytes": s.image, "path": None}} for s in part]
            stream.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))
    if tasks:
        Dataset.from_file(str(path)).save_to_disk(str(folder))
    shutil.rmtree(folder / "rows")
    samples_ = sum(counted.total() for counted in tasks.values())
    return {"samples": samples_, "tasks": tasks, "fingerprint": digest.hexdigest()}


def _parts(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    part: list[Sample] = []
    for sample in samples:
        part.append(sample)
        if len(part) == _AT_A_TIME:
            yield part
            part = []
    if part:
        yield part


def _features() -> "Features":
    from datasets import Features, Image, List, Value

    texts = {name: Value("string") for name in ("prompt", "answer", "task", "language")}
    kinds = {**texts, "image": Image(), "item_ids": List(Value("string")), "document": Value("int64")}
    return Features({name: kinds[name] for name in Sample._fields})


def _why(about: Mapping[str, Any]) -> str:
    dropped = [
        f"{number} {reason}" for counts in about["counts"].values() for reason, number in counts["dropped"].items()
    ]
    return f"{', '.join(dropped) or 'there were no answers'}; see the options, or make other rollouts"
