"""``comem-lmms``: a thin door to the library; arguments in, one function call, its words out."""

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comem_lmms import __version__, cli_index, cli_kb, cli_retrieve
from comem_lmms.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0 if it succeeded, 1 if it finds something lacking, 2 if the user has to change something (said
    in one line)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
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

    report = commands.add_parser("report", help="print the table of a folder of lmms-eval results")
    report.add_argument("folder", type=Path, help="what --output_path was; searched with all folders below")
    report.add_argument(
        "--metric", metavar="NAME", help="e.g. paper; default: each task's first, official or exact_match"
    )
    report.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    report.add_argument("--rows", type=int, metavar="N", help="fail unless there are exactly N rows")
    report.set_defaults(run=_report)

    rescore = commands.add_parser("rescore", help="score a sample log of lmms-eval again, without a model")
    rescore.add_argument("samples", type=Path, help="a *_samples_*.jsonl that --log_samples wrote")
    rescore.add_argument("--task", required=True, help="whose scorers to use; usually the task that was run")
    rescore.set_defaults(run=_rescore)

    kb = commands.add_parser("kb", help="work on a knowledge base").add_subparsers(required=True, metavar="ACTION")
    cli_kb.add(kb)
    cli_index.add(kb)

    _add_link(commands)

    cli_retrieve.add(commands)

    memorize = commands.add_parser("memorize", help="encode a knowledge base once and keep its memories on disk")
    memorize.add_argument("bank", help="folder of the memory bank; resumed if it is there")
    _add_model_args(memorize)
    memorize.add_argument("--batch_size", type=int, help="items encoded at a time")
    memorize.add_argument("--store", metavar="DTYPE", help="float32, bfloat16, float16 or int8; default: the encoder's")
    memorize.add_argument(
        "--for",
        dest="run_folder",
        type=Path,
        metavar="DIR",
        help="only the items of a retrieval run, or those in the --log_samples files below a folder",
    )
    memorize.add_argument("--top-k", type=int, metavar="K", help="with --for: only the best K of each question")
    memorize.add_argument("--shard_size", type=int, default=512, help="items written at a time (%(default)s)")
    memorize.set_defaults(run=_memorize)

    doctor = commands.add_parser("doctor", help="check that memory works with your model, device and libraries")
    _add_model_args(doctor)
    doctor.set_defaults(run=_doctor)

    convert = commands.add_parser("convert", help="turn a checkpoint of the reference into a memory encoder of ours")
    convert.add_argument("source", help="folder or Hub id of the checkpoint")
    convert.add_argument("out", type=Path, help="folder to write the memory encoder to")
    convert.add_argument("--base", required=True, help="the VLM it was tuned from: a Hub id or a folder")
    convert.add_argument("--rank", type=int, default=16, help="of the adapter (16, as the reference trains)")
    convert.set_defaults(run=_convert)

    _add_data(commands)

    microseek = commands.add_parser("microseek", help="work on MicroSeek")
    build = microseek.add_subparsers(required=True, metavar="ACTION").add_parser(
        "build", help="write MicroSeek's knowledge base and questions from their seed"
    )
    build.add_argument("knowledge", type=Path, help="folder to write the knowledge base to")
    build.add_argument("questions", type=Path, help="Parquet file to write the questions to")
    build.add_argument("--seed", type=int, help="another world than the shipped one")
    build.set_defaults(run=_build)
    return parser


def _add_link(commands: Any) -> None:
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


def _add_data(commands: Any) -> None:
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


def _add_model_args(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_args", default="", help="those of --model comem: pretrained=...,memory_encoder=...,knowledge=..."
    )


def _model_args(given: str, **more: Any) -> Any:
    """The arguments of CoMEM, from the text that lmms-eval takes."""
    from lmms_eval.utils import simple_parse_args_string

    from comem_lmms.models.arguments import MemoryArguments, parse

    try:
        arguments = simple_parse_args_string(given)
    except ValueError as error:
        raise UserError(f"--model_args {given!r} is not of the form name=value,name=value") from error
    return parse(MemoryArguments, {**arguments, **{k: v for k, v in more.items() if v is not None}})


def _memorize(arguments: argparse.Namespace) -> None:
    from accelerate import PartialState

    from comem_lmms.models.memorize import memorize

    start = time.perf_counter()
    model_args = _model_args(arguments.model_args, batch_size=arguments.batch_size)
    ids = _wanted(arguments.run_folder, arguments.top_k, model_args.knowledge) if arguments.run_folder else None
    bank = memorize(arguments.bank, model_args, arguments.store, ids, arguments.shard_size)
    PartialState().print(
        f"{arguments.bank}: {len(bank)} memories of {bank.info.n_vectors} vectors as {bank.info.dtype}, "
        f"{bank.nbytes / 1e6:.1f} MB "
        f"({time.perf_counter() - start:.0f} s)"
    )


def _wanted(folder: Path, top_k: int | None, knowledge: str) -> set[str]:
    """The ids of the items that questions were given, in a retrieval run or in sample logs."""
    from comem_lmms import micro
    from comem_lmms.knowledge import KnowledgeBase
    from comem_lmms.report import retrieved_ids
    from comem_lmms.runs import Run

    if not Run.is_at(folder):
        return retrieved_ids(folder, top_k)
    run = Run.open(folder)
    k = run.k if top_k is None else top_k
    run.check(KnowledgeBase.open(micro.resolve(knowledge, "knowledge")), k)
    return run.ids(k)


def _doctor(arguments: argparse.Namespace) -> None:
    from importlib.metadata import version

    import torch

    from comem_lmms.doctor import diagnose

    model_args = _model_args(arguments.model_args)
    device = model_args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("comem-lmms", "torch", "transformers", "peft"))
    print(f"pretrained={model_args.pretrained} on {device}; {libraries}")
    if model_args.reader:
        raise UserError(
            f"reader={model_args.reader!r} is not checked: it reads hidden states, not a prompt; leave it out"
        )
    failed, checks, finite = 0, "", True
    for finding in diagnose(model_args, device):
        print(finding, flush=True)
        checks += finding.check
        failed += not finding.holds
        finite &= math.isfinite(finding.difference)
    if failed:
        remedy = (
            "Try another attn_implementation= or dtype=float32, or another version of transformers"
            if finite
            else "Values that are not finite come of damaged weights, or of a dtype that they do not fit: copy the "
            "weights again, or try dtype=float32"
        )
        raise UserError(f"{failed} checks fail; answers of this model cannot be trusted. {remedy}")
    print(
        "all checks hold" if "memory of an item" in checks else "all checks hold; no memory encoder was given to check"
    )


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


def _report(arguments: argparse.Namespace) -> None:
    from comem_lmms.report import read_rows, render, write_summary

    rows = read_rows(arguments.folder, arguments.metric)
    if arguments.rows not in (None, len(rows)):
        raise UserError(f"{len(rows)} results under {arguments.folder}, not {arguments.rows}; see the log of lmms-eval")
    if arguments.json:
        write_summary(rows, arguments.json)
    print(render(rows))


def _rescore(arguments: argparse.Namespace) -> None:
    from loguru import logger

    from comem_lmms.rescore import render, rescore

    logger.remove()  # lmms-eval tells about every file that it reads; errors come as UserError
    print(render(rescore(arguments.samples, arguments.task)))


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


def _convert(arguments: argparse.Namespace) -> None:
    from comem_lmms.reference import convert

    print(convert(arguments.source, arguments.base, arguments.out, arguments.rank))


def _build(arguments: argparse.Namespace) -> None:
    from comem_lmms.microseek import build, world

    seed = world.SEED if arguments.seed is None else arguments.seed
    knowledge = build.build(arguments.knowledge, arguments.questions, seed)
    print(f"{arguments.knowledge}: {len(knowledge)} items, fingerprint {knowledge.fingerprint}")


if __name__ == "__main__":
    sys.exit(main())
