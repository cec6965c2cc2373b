"""``comem-lmms data``: the benchmarks' data."""

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    data = commands.add_parser("data", help="get the data of the benchmarks").add_subparsers(
        required=True, metavar="ACTION"
    )
    prepare = data.add_parser("prepare", help="download a data set and make it ready for lmms-eval; can be interrupted")
    prepare.add_argument("name", help="as `comem-lmms data check` lists them")
    prepare.add_argument("--images", metavar="FOLDER", help="the images that you have, or m2kr for InfoSeek's")
    prepare.add_argument("--contact", metavar="MAIL", help="shown to hosts from which images are fetched one by one")
    prepare.add_argument("--force", action="store_true", help="download and prepare again, and accept changes")
    prepare.set_defaults(run=_prepare_data)
    check = data.add_parser("check", help="say what is there, what is missing and what it costs")
    check.add_argument("names", nargs="*", metavar="name", help="default: all")
    check.set_defaults(run=_check_data)


def _prepare_data(arguments: argparse.Namespace) -> None:
    from comem_lmms.data import sources
    from comem_lmms.data.http import Client
    from comem_lmms.data.prepare import prepare

    source = sources.find(arguments.name)
    print("\n".join(prepare(source, arguments.images, Client(arguments.contact), arguments.force)))


def _check_data(arguments: argparse.Namespace) -> int:
    from comem_lmms.data import sources
    from comem_lmms.data.check import check, table

    found = check([sources.find(name) for name in arguments.names or sources.SOURCES])
    print(table(found))
    return int(any(status.state != "ready" for status in found))
