"""``comem-lmms retrieve`` and ``comem-lmms retrieval``: retrieval runs made and measured."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from comem_lmms.records import KINDS, By

if TYPE_CHECKING:
    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.retrieval import Index


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    retrieve = commands.add_parser("retrieve", help="search for the questions of tasks once, for every method to use")
    retrieve.add_argument("knowledge", help="folder of the knowledge base, with its index, or micro for MicroSeek's")
    retrieve.add_argument("--tasks", required=True, help="as for lmms-eval: names of tasks and groups, with commas")
    retrieve.add_argument("--top-k", type=positive, default=20, metavar="K", help="items a question (%(default)s)")
    retrieve.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder to write; gone on with")
    retrieve.add_argument("--kind", choices=KINDS, default="clip", help="the last two are controls (%(default)s)")
    retrieve.add_argument(
        "--query",
        choices=get_args(By),
        default="image",
        help="what of a question the images are searched with (%(default)s, as in the paper)",
    )
    retrieve.add_argument(
        "--text-weight", type=float, default=0.5, metavar="SHARE", help="with --query both, from 0 to 1 (%(default)s)"
    )
    retrieve.add_argument("--limit", type=positive, metavar="N", help="only the first N documents of each task")
    retrieve.add_argument("--per-image", type=positive, metavar="N", help="at most N items of one image")
    retrieve.add_argument("--include_path", metavar="DIR", help="folder with more tasks, as for lmms-eval")
    retrieve.add_argument("--clip", help="where the open_clip model of the index is found, if it has moved")
    retrieve.add_argument("--pretrained", help="its open_clip pretrained tag")
    retrieve.add_argument("--device", help="of the open_clip model; by default a GPU if there is one")
    retrieve.add_argument("--search-device", default="cpu", help="of the index; cuda with faiss-gpu (%(default)s)")
    retrieve.set_defaults(run=_retrieve)

    retrieval = commands.add_parser("retrieval", help="work on a retrieval run").add_subparsers(
        required=True, metavar="ACTION"
    )
    imported = retrieval.add_parser(
        "import", help="make a run of the reference's retrieval results (MDS), whose items kb build has stored"
    )
    imported.add_argument("folder", type=Path, help="of the MDS shards")
    imported.add_argument("--knowledge", required=True, metavar="DIR", help="what kb build --source FOLDER made")
    imported.add_argument("--tasks", required=True, help="as for lmms-eval: names of tasks and groups, with commas")
    imported.add_argument(
        "--match",
        required=True,
        metavar="FIELD[=FIELD]",
        help="what names a question in documents, and in samples if that has another name",
    )
    imported.add_argument("--top-k", type=positive, default=10, metavar="K", help="items a question (%(default)s)")
    imported.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder to write")
    imported.add_argument("--limit", type=positive, metavar="N", help="only the first N documents of each task")
    imported.add_argument("--include_path", metavar="DIR", help="folder with more tasks, as for lmms-eval")
    imported.set_defaults(run=_import)
    measure = retrieval.add_parser("eval", help="print how often a retrieval run finds what it should")
    measure.add_argument("folder", type=Path, metavar="RUN", help="what `comem-lmms retrieve` wrote")
    measure.add_argument("--knowledge", help="folder of the knowledge base; by default where it was searched")
    measure.add_argument("--format", choices=("md", "json", "csv"), default="md", help="(%(default)s)")
    measure.set_defaults(run=_eval)


def positive(text: str) -> int:
    """For arguments that count something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _retrieve(arguments: argparse.Namespace) -> None:
    from comem_lmms import micro
    from comem_lmms.knowledge import KnowledgeBase

    knowledge = KnowledgeBase.open(micro.resolve(arguments.knowledge, "knowledge"))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _retrieve_with(arguments, knowledge)
        return

    from accelerate import PartialState

    from comem_lmms.retrieval import ShardedIndex

    index = ShardedIndex.open(knowledge, arguments.search_device)
    if not PartialState().is_main_process:
        index.serve()
        return
    print(f"{PartialState().num_processes} processes share the index", flush=True)
    with index.asked():
        _retrieve_with(arguments, knowledge, index)


def _retrieve_with(arguments: argparse.Namespace, knowledge: "KnowledgeBase", index: "Index | None" = None) -> None:
    """Makes a run with an index, by default all of the base's."""
    from loguru import logger

    from comem_lmms.harness import documents
    from comem_lmms.retrieve import check, retrieve, titled

    logger.remove()  # lmms-eval tells about every file that it reads; errors come as UserError
    tasks = documents(arguments.tasks.split(","), arguments.limit, arguments.include_path)
    right = check(arguments.out, arguments.kind, tasks)

    import torch

    from comem_lmms.retrieval import Index, Retriever

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    retriever = Retriever(
        knowledge,
        arguments.kind,
        arguments.clip,
        arguments.pretrained,
        device,
        top_k=arguments.top_k,
        per_image=arguments.per_image,
        by=arguments.query,
        text_weight=arguments.text_weight,
        titled=titled(knowledge, tasks) if right == "entity" else None,
        index=index or Index.open(knowledge, arguments.search_device),
    )
    _tell(arguments.out, retrieve(arguments.out, tasks, retriever, arguments.top_k).manifest)


def _import(arguments: argparse.Namespace) -> None:
    from loguru import logger

    from comem_lmms.harness import documents
    from comem_lmms.importing import Imported, fields_of
    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.retrieve import check, retrieve

    logger.remove()
    fields = fields_of(arguments.match)
    knowledge = KnowledgeBase.open(arguments.knowledge)
    tasks = documents(arguments.tasks.split(","), arguments.limit, arguments.include_path)
    check(arguments.out, Imported.kind, tasks)
    imported = Imported(knowledge, arguments.folder, tasks, fields)
    _tell(arguments.out, retrieve(arguments.out, tasks, imported, arguments.top_k).manifest)
    if lacking := imported.about["without_sample"]:
        print(f"{lacking} documents have no sample, so no hits")
    if other := imported.about["other_items_of_same_image"]:
        print(f"{other} samples have other items than the first of the same image, whose items count for all of them")


def _tell(folder: Path, about: dict[str, Any]) -> None:
    needed = _needed(about)
    print(
        f"{folder}: {about['queries']} different queries of {about['documents']} documents "
        f"({about['not_searched']} without {needed}, which have no hits), {about['fewer_than_k']} with fewer than "
        f"{about['k']} hits, fingerprint {about['fingerprint'][:12]}"
    )
    if lacking := about["without_right_item"]:
        print(
            f"{lacking} documents ask about a page that the knowledge base has not, so {about['kind']} is clip for them"
        )


def _needed(about: dict[str, Any]) -> str:
    return {"image": "an image", "text": "a text", "both": "an image and a text"}[about["query"]]


def _eval(arguments: argparse.Namespace) -> None:
    from comem_lmms import micro
    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.runs import Run
    from comem_lmms.runs.recall import recall
    from comem_lmms.runs.table import as_csv, as_json, markdown

    run = Run.open(arguments.folder)
    folder = Path(micro.resolve(arguments.knowledge or run.manifest["knowledge"]["folder"], "knowledge"))
    knowledge = KnowledgeBase.open(folder) if arguments.knowledge or folder.is_dir() else None
    rows = recall(run, knowledge)
    render = {"md": lambda: markdown(rows, run.k), "json": lambda: as_json(rows), "csv": lambda: as_csv(rows)}
    print(render[arguments.format]())
    if arguments.format != "md":
        return
    about = run.manifest
    print(
        f"\n{about['kind']} retrieval by {about['query']}, {about['k']} items a question; of {about['documents']} "
        f"documents {about['not_searched']} are without {_needed(about)} and are not counted, and "
        f"{about['fewer_than_k']} of {about['queries']} different queries have fewer hits"
    )
    print(
        "in base: questions whose right item or page the knowledge base has at all; no hits: questions that have none, "
        "which counts as a miss"
    )
    if knowledge is None:
        print(f"entity and answer are not measured, since {folder} is not there; give --knowledge")
