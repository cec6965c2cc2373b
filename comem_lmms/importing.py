"""The reference's retrieval results as a retrieval run: MDS folders and tasks in, a folder for `Run` out.

The knowledge base is made of the same folders before, by ``kb build``. A sample of theirs and a document are put
together by a field that both have, and from there on by the image of the document, as in every run.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from comem_lmms.errors import UserError
from comem_lmms.files import sha256
from comem_lmms.harness import Documents
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.knowledge.sources import mds
from comem_lmms.queries import key_of
from comem_lmms.records import By, Hit, Query, Right


class Imported:
    """A `Retriever` whose hits are those of samples; their score is minus their rank, since samples have none. An image
    of several samples has the items of the first.

    Args:
        knowledge: the base that was made of the folder.
        folder: of MDS.
        tasks: whose documents to put together with samples.
        fields: the names of the field that they share, in documents and in samples.

    Raises:
        UserError: the folder is not of this base, a field is missing, or no document has a sample.
    """

    kind, per_image, text_weight = "clip", None, None
    by: By = "image"
    right: Right = "item_id"
    titled = None

    def __init__(
        self, knowledge: KnowledgeBase, folder: Path, tasks: Sequence[Documents], fields: tuple[str, str]
    ) -> None:
        self.knowledge = knowledge
        files = mds.shards(folder)
        ids = _ids(files, fields[1])
        self._found: dict[bytes, list[Hit]] = {}
        matched = other = 0
        unmatched: list[bytes | None] = []
        with tqdm(total=sum(map(len, tasks)), desc="Matching", unit="document") as bar:
            for documents in tasks:
                for number in range(len(documents)):
                    found = ids.get(_value(documents, number, fields[0]))
                    key = key_of(documents.query(number), self.kind)
                    if found is None:
                        unmatched.append(key)
                    elif key is not None:
                        hits = self._hits(found, folder)
                        other += self._found.setdefault(key, hits) != hits
                    matched += found is not None
                    bar.update()
        if not matched:
            raise UserError(
                f"no document has a {fields[0]} that is a sample's {fields[1]} in {folder}, such as "
                f"{next(iter(ids), None)!r}; give --match with the fields that name the question in both"
            )
        digest = hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
        self.about = {
            "imported_from": str(folder),
            "samples": len(ids),
            "without_sample": sum(key not in self._found for key in unmatched),  # nor has another of the same image
            "other_items_of_same_image": other,
            "files": digest,
        }
        self.fingerprint = hashlib.sha256(f"{digest} {fields} {knowledge.fingerprint}".encode()).hexdigest()

    def search(self, queries: Iterable[Query], k: int) -> Iterator[list[Hit]]:
        """The hits of each query; none for one that no sample is of."""
        for query in queries:
            yield self._found.get(key_of(query, self.kind) or b"", [])[:k]

    def _hits(self, ids: list[str], folder: Path) -> list[Hit]:
        """Those that the base has; what it rejected for its image or text is not found."""
        rows = [(id_, self.knowledge.find(id_)) for id_ in ids]
        there = [(id_, row) for id_, row in rows if row is not None]
        if ids and not there:
            raise UserError(
                f"knowledge base {self.knowledge.folder} has no item of {folder}; make it with `comem-lmms kb build "
                f"--source {folder}`"
            )
        return [Hit(id_, row, -float(rank)) for rank, (id_, row) in enumerate(there, 1)]


def _ids(files: Sequence[Path], field: str) -> dict[str, list[str]]:
    """By what names a question in the samples: the ids of its items, best first, each once."""
    ids: dict[str, list[str]] = {}
    for file in files:
        try:
            for sample in mds.samples(file, (field, mds.FOUND)):
                found = dict.fromkeys(map(mds.id_of, mds.entries(sample[mds.FOUND])))
                ids.setdefault(str(sample[field]), list(found))
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}); copy it again") from error
    return ids


def _value(documents: Documents, number: int, field: str) -> str:
    if field not in documents.columns:
        raise UserError(
            f"documents of task {documents.task} have no {field!r}, but {', '.join(documents.columns)}; give --match"
        )
    return str(documents.value(number, field))


def fields_of(given: str) -> tuple[str, str]:
    """``question_id=data_id``, or one name for both, as names in documents and samples.

    Raises:
        UserError: it is not of that form.
    """
    ours, _, theirs = given.partition("=")
    if not ours.strip() or given.endswith("="):
        raise UserError(f"--match {given!r} is not FIELD or FIELD=FIELD; give the field of documents, then of samples")
    return ours, theirs or ours
