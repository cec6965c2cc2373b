"""``comem-lmms memorize``, ``doctor``, ``convert`` and ``merge``: memories, and what makes them."""

import argparse
import math
import time
from pathlib import Path
from typing import Any

from comem_lmms.errors import UserError


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
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

    merge = commands.add_parser("merge", help="add a memory encoder's adapter to the weights of its VLM")
    merge.add_argument("source", help="folder or Hub id of the memory encoder")
    merge.add_argument("out", type=Path, help="folder to write to")
    merge.add_argument(
        "--layout", choices=("own", "reference"), default="own", help="file names and keys (%(default)s)"
    )
    merge.add_argument("--base", help="the VLM it was made for, if it has moved")
    merge.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16", help="(%(default)s)")
    merge.set_defaults(run=_merge)


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


def _convert(arguments: argparse.Namespace) -> None:
    from comem_lmms.reference import convert

    print(convert(arguments.source, arguments.base, arguments.out, arguments.rank))


def _merge(arguments: argparse.Namespace) -> None:
    from comem_lmms.reference import merge

    merge(arguments.source, arguments.out, arguments.layout, arguments.base, arguments.dtype)
    print(f"{arguments.out}: use it as memory_encoder={arguments.out}")
