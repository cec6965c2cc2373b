"""``comem-lmms kb build`` and ``kb stats``: arguments in, one function call, its words out."""

import argparse
import sys
from pathlib import Path
from typing import Any

from comem_lmms.errors import UserError

INTERRUPTED = 130


def add(kb: Any) -> None:
    """Adds both to the actions of ``comem-lmms kb``."""
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
    stats = kb.add_parser("stats", help="say what is in a knowledge base")
    stats.add_argument("folder", type=Path)
    stats.add_argument("--verify", action="store_true", help="read all files and compare them with the manifest")
    stats.set_defaults(run=_stats)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _build(arguments: argparse.Namespace) -> int | None:
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
    source = sources.find(arguments.source, arguments.shards, Client(arguments.contact), arguments.revision)
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
    return None


def _stats(arguments: argparse.Namespace) -> None:
    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.knowledge.stats import stats

    knowledge = KnowledgeBase.open(arguments.folder)
    if arguments.verify:
        knowledge.verify()
    print("\n".join(f"{name:<20} {value}" for name, value in stats(knowledge).items()))
    if arguments.verify:
        print(f"{'files':<20} all as they were written")
