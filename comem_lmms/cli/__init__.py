"""``comem-lmms``: a thin door to the library; arguments in, one function call, its words out.

Each module adds its commands to the parser; nothing heavy is imported before one of them runs.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from comem_lmms import __version__
from comem_lmms.cli import data, knowledge, linking, memory, microseek, results, retrieval, training
from comem_lmms.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0 if it succeeded, 1 if it finds something lacking, 2 if the user has to change something (said
    in one line)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except UserError as error:
        print(f"comem-lmms: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("comem-lmms: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="comem-lmms", description="External memory for VLMs in lmms-eval.")
    parser.add_argument("--version", action="version", version=f"comem-lmms {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (results, knowledge, linking, retrieval, memory, data, training, microseek):
        group.add(commands)
    return parser
