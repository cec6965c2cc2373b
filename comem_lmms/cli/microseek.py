"""``comem-lmms microseek``: the world from its seed."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    microseek = commands.add_parser("microseek", help="work on MicroSeek")
    build = microseek.add_subparsers(required=True, metavar="ACTION").add_parser(
        "build", help="write MicroSeek's knowledge base and questions from their seed"
    )
    build.add_argument("knowledge", type=Path, help="folder to write the knowledge base to")
    build.add_argument("questions", type=Path, help="Parquet file to write the questions to")
    build.add_argument("--seed", type=int, help="another world than the shipped one")
    build.set_defaults(run=_build)


def _build(arguments: argparse.Namespace) -> None:
    from comem_lmms.microseek import build, world

    seed = world.SEED if arguments.seed is None else arguments.seed
    knowledge = build.build(arguments.knowledge, arguments.questions, seed)
    print(f"{arguments.knowledge}: {len(knowledge)} items, fingerprint {knowledge.fingerprint}")
