"""``comem-lmms link``: texts to Wikidata entities."""

import argparse
import time
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    link = commands.add_parser("link", help="link texts to Wikidata entities").add_subparsers(
        required=True, metavar="ACTION"
    )
    titles = link.add_parser("build", help="index a file of Wikipedia titles, once")
    titles.add_argument("titles", type=Path, help="OVEN's Wiki6M_ver_1_0_title_only.jsonl, or one like it")
    titles.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the index to")
    titles.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="vocab.txt; default: that of bert-base-uncased from the Hub"
    )
    titles.set_defaults(run=_index_titles)
    query = link.add_parser("query", help="print the score, id and title of the best entities for texts")
    query.add_argument("folder", type=Path, help="the index")
    query.add_argument("texts", nargs="+", metavar="TEXT")
    query.add_argument("--top-k", type=int, default=5, metavar="K", help="entities a text (%(default)s)")
    query.add_argument("--linker", choices=("bm25", "fuzzy"), default="bm25", help="(%(default)s)")
    query.set_defaults(run=_link)


def _index_titles(arguments: argparse.Namespace) -> None:
    from comem_lmms.linking import TitleIndex

    start = time.perf_counter()
    index = TitleIndex.build(arguments.titles, arguments.out, arguments.vocabulary)
    print(f"{arguments.out}: {len(index)} titles ({time.perf_counter() - start:.0f} s)")


def _link(arguments: argparse.Namespace) -> None:
    from comem_lmms.linking import LINKERS, TitleIndex

    index = TitleIndex.open(arguments.folder)
    for text in arguments.texts:
        if len(arguments.texts) > 1:
            print(f"{text!r}:")
        found = LINKERS[arguments.linker](index, text, arguments.top_k)
        print("\n".join(f"{score:9.4f}  {id_}  {title}" for id_, title, score in found) or "linked to nothing")
