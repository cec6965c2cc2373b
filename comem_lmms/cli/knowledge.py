"""``comem-lmms kb``: a knowledge base built, embedded, indexed and described."""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem_lmms.errors import UserError
from comem_lmms.files import read_json

if TYPE_CHECKING:
    from comem_lmms.knowledge import KnowledgeBase

INTERRUPTED = 130


def add(commands: Any) -> None:
    """Adds the command to the parser's."""
    kb = commands.add_parser("kb", help="work on a knowledge base").add_subparsers(required=True, metavar="ACTION")
    build = kb.add_parser("build", help="make a knowledge base; run it again to go on after an interruption")
    build.add_argument(
        "--source",
        required=True,
        help="wit, wit_base, or the path of JSON lines, Parquet, WIT's TSV or a folder of images",
    )
    build.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder of the base")
    build.add_argument(
        "--shards", metavar="N-M", help="of wit and wit_base: which files, e.g. 0-9 or 0,2; default: all"
    )
    build.add_argument("--rows", type=int, metavar="N", help="of each file, the first N at most; default: all")
    build.add_argument("--revision", metavar="COMMIT", help="of wit_base on the Hub; default: the newest")
    build.add_argument("--language", type=_names, default=(), metavar="CODES", help="keep these, e.g. en,fr")
    build.add_argument("--image-type", type=_names, default=(), metavar="TYPES", help="keep these, e.g. jpeg,png")
    build.add_argument("--min-size", type=int, metavar="PIXELS", help="of an image's shorter side")
    build.add_argument("--min-text", type=int, metavar="N", help="characters of a text, at least")
    build.add_argument("--max-text", type=int, metavar="N", help="characters of a text, at most")
    build.add_argument("--no-images", action="store_true", help="store the texts alone")
    build.add_argument("--image-width", type=int, metavar="PIXELS", help="of Wikimedia's thumbnails (500)")
    build.add_argument("--contact", metavar="MAIL", help="shown to hosts of images; Wikimedia's want one")
    build.add_argument("--rate", type=float, default=10.0, help="requests a second to one host (%(default)s)")
    build.add_argument("--connections", type=int, default=2, help="to one host at a time (%(default)s)")
    build.set_defaults(run=_build)
    embed = kb.add_parser("embed", help="embed the images of a knowledge base; can be interrupted, and run by several")
    embed.add_argument("folder", type=Path, help="the knowledge base")
    embed.add_argument(
        "--clip",
        required=True,
        help="open_clip model name, hf-hub:ORG/REPO, local-dir:FOLDER, or micro, which knows MicroSeek's emblems only",
    )
    embed.add_argument("--pretrained", metavar="TAG", help="open_clip pretrained tag, or a checkpoint file")
    embed.add_argument(
        "--dtype", default="auto", help="float32, bfloat16 or float16; default: float16 on a GPU, else float32"
    )
    embed.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time (%(default)s)")
    embed.add_argument("--workers", type=int, metavar="N", help="processes that decode ahead; default: by the cores")
    embed.add_argument("--device", help="default: a GPU where there is one")
    embed.set_defaults(run=_embed)

    index = kb.add_parser("index", help="build the search index of a knowledge base that was embedded")
    index.add_argument("folder", type=Path, help="the knowledge base")
    index.add_argument("--type", default="auto", help="auto, flat, hnsw, ivf, pq, or a FAISS factory string")
    index.add_argument("--memory", type=float, metavar="GB", help="what the index may take; default: half of all")
    index.add_argument("--device", default="cpu", help="where to train and measure (%(default)s)")
    index.add_argument(
        "--min-recall", type=float, default=0.97, metavar="SHARE", help="of the 10 nearest (%(default)s)"
    )
    index.set_defaults(run=_index)
    stats = kb.add_parser("stats", help="say what is in a knowledge base")
    stats.add_argument("folder", type=Path)
    stats.add_argument("--verify", action="store_true", help="read all files and compare them with the manifest")
    stats.set_defaults(run=_stats)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _build(arguments: argparse.Namespace) -> int | None:
    from PIL import Image

    from comem_lmms.data.http import Client
    from comem_lmms.knowledge import Filters, Options, addresses, build, pictures, sources

    if arguments.rate <= 0 or arguments.connections < 1:
        raise UserError(f"--rate {arguments.rate} --connections {arguments.connections}: both must be more than 0")
    names = ("language", "image_type", "min_size", "min_text", "max_text")
    options = Options(
        Filters(**{name: getattr(arguments, name) for name in names}),
        addresses.WIDTH if arguments.image_width is None else arguments.image_width,
        not arguments.no_images,
    )
    # A file that does not come in a minute is one of a million: better none than an hour's wait.
    client = Client(arguments.contact, pause=1 / arguments.rate, tries=4, timeout=30.0, limit=pictures.MOST_BYTES)
    if arguments.source == "wit" and options.images and client.contact is None:
        raise UserError("the images of wit are Wikimedia's, which wants to know whom it serves; give --contact MAIL")
    client_of_files = Client(arguments.contact)
    source = sources.find(arguments.source, arguments.shards, client_of_files, arguments.revision, arguments.rows)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are rejects
    try:
        manifest = build(source, arguments.out, options, client, arguments.connections)
    except KeyboardInterrupt:
        print("comem-lmms: interrupted; run the same command again to go on, what is built is kept", file=sys.stderr)
        return INTERRUPTED
    left_out, rejects = (sum(manifest[name].values()) for name in ("left_out", "rejects"))
    print(
        f"{arguments.out}: {manifest['items']:,} items and {manifest['images']:,} images of {manifest['rows']:,} rows; "
        f"filters left out {left_out:,}, rejects.jsonl has {rejects:,}"
    )
    if not manifest["items"]:
        print("comem-lmms: no row became an item; see rejects.jsonl and the filters", file=sys.stderr)
        return 1
    return None


def _embed(arguments: argparse.Namespace) -> None:
    import torch
    from accelerate import PartialState

    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.retrieval import ClipEmbedder, embed

    start = time.perf_counter()
    process = PartialState(cpu=not torch.cuda.is_available())
    device = arguments.device or (str(process.device) if torch.cuda.is_available() else "cpu")
    workers = arguments.workers
    if workers is None:  # one core is left for the model
        workers = min(len(os.sched_getaffinity(0)) // process.num_processes - 1, 16)
    embedder = ClipEmbedder(arguments.clip, arguments.pretrained, device, arguments.dtype)
    embeddings = embed(KnowledgeBase.open(arguments.folder), embedder, arguments.batch_size, max(workers, 0))
    process.print(
        f"{embeddings.folder}: {len(embeddings):,} vectors of {embeddings.dimension} dimensions, computed in "
        f"{embeddings.about['computed_in']} by {embedder.name} ({time.perf_counter() - start:.0f} s)"
    )


def _index(arguments: argparse.Namespace) -> None:
    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.retrieval import Index

    start = time.perf_counter()
    memory = None if arguments.memory is None else arguments.memory * 1e9
    knowledge = KnowledgeBase.open(arguments.folder)
    index = Index.build(knowledge, arguments.type, memory, arguments.device, arguments.min_recall)
    about = index.about
    print(f"{about['factory']}: {about['why']}")
    print(
        f"{arguments.folder}: {about['images']:,} vectors, {about['bytes'] / 1e6:.1f} MB, recall@10 "
        f"{about['recall_at_10']:.4f}{' at ' + about['search'] if about['search'] else ''} for {about['recall_of']} "
        f"({time.perf_counter() - start:.0f} s)"
    )


def _search_stats(knowledge: "KnowledgeBase") -> dict[str, str]:
    """What there is to search the base with, as its own files say."""
    folder = knowledge.folder
    told = dict.fromkeys(("embeddings", "index"), "none")
    for name, file in (("embeddings", "manifest.json"), ("index", "index.json")):
        if (path := folder / name / file).is_file():
            about = read_json(path)
            told[name] = f"{about['images']:,} vectors of {about['dimension']} dimensions by {about['clip']}"
            if about.get("knowledge") != knowledge.fingerprint:
                told[name] = f"OF ANOTHER BASE, {str(about.get('knowledge'))[:12]}: {told[name]}"
            if name == "index":
                told[name] += f", {about['factory']}, recall@10 {about['recall_at_10']:.4f}"
    return told


def _stats(arguments: argparse.Namespace) -> None:
    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.knowledge.stats import stats

    knowledge = KnowledgeBase.open(arguments.folder)
    verified = _verify(knowledge) if arguments.verify else []
    told = stats(knowledge) | _search_stats(knowledge)
    print("\n".join(f"{name:<20} {value}" for name, value in told.items()))
    if verified:
        print(f"{'files':<20} all as they were written: {', '.join(verified)}")


def _verify(knowledge: "KnowledgeBase") -> list[str]:
    """Reads all files of a base and of what it is searched with; returns what there is."""
    from comem_lmms.retrieval import Embeddings, Index

    knowledge.verify()
    verified = ["items", "images", "lookups"]
    if (knowledge.folder / "embeddings" / "manifest.json").is_file():
        Embeddings.open(knowledge).verify()
        verified.append("embeddings")
    if (knowledge.folder / "index" / "index.json").is_file():
        Index.verify(knowledge)
        verified.append("index")
    return verified
