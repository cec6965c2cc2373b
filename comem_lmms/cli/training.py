"""``comem-lmms training-data``, ``accelerate-config`` and ``push``: training data made of rollouts, how to train on it
with several GPUs, and what was trained shared."""

import argparse
import sys
from pathlib import Path
from typing import Any

from comem_lmms.cli.retrieval import positive
from comem_lmms.errors import UserError

INTERRUPTED = 130


def add(commands: Any) -> None:
    """Adds the commands to the parser's."""
    data = commands.add_parser("training-data", help="make training data of a VLM's own answers").add_subparsers(
        required=True, metavar="ACTION"
    )
    samples = data.add_parser("from-samples", help="choose answers from the sample logs of lmms-eval")
    samples.add_argument("rollouts", nargs="+", type=Path, help="folders that lmms-eval wrote with --log_samples")
    _add_out(samples)
    samples.add_argument("--keep", choices=("correct", "all"), default="correct", help="(%(default)s)")
    samples.add_argument("--metric", metavar="NAME", help="that judges answers; default: each task's first")
    samples.add_argument(
        "--threshold", type=float, default=1.0, metavar="SCORE", help="from which an answer is right (%(default)s)"
    )
    samples.add_argument(
        "--per-question", type=positive, default=1, metavar="N", help="different answers (%(default)s)"
    )
    samples.add_argument(
        "--min-items", type=positive, metavar="N", help="given, at least; default: as many as the log's other answers"
    )
    samples.add_argument(
        "--against", metavar="TASKS", help="evaluations to keep out; default: the eight benchmarks, as far as prepared"
    )
    samples.add_argument(
        "--overlap",
        choices=("image", "either"),
        default="image",
        help="drop questions with an evaluation's image, or those in its words too (%(default)s)",
    )
    samples.add_argument("--knowledge", metavar="FOLDER", help="that was searched; default: what the rollouts name")
    samples.add_argument("--include_path", metavar="DIR", help="folder with more tasks, as for lmms-eval")
    samples.set_defaults(run=_from_samples)

    translate = data.add_parser("translate", help="add translations of some samples; can be interrupted")
    translate.add_argument("data", type=Path, help="training data")
    _add_out(translate)
    translate.add_argument("--languages", required=True, metavar="CODES", help="e.g. bg,zh,arz, or gsw=Swiss German")
    translate.add_argument("--per-language", type=positive, default=200, metavar="N", help="samples (%(default)s)")
    translate.add_argument("--seed", type=int, default=0, help="of the choice of samples (%(default)s)")
    translate.add_argument(
        "--model", required=True, help="that the endpoint serves, or without --api-base a Hub id or folder"
    )
    translate.add_argument("--api-base", metavar="URL", help="of an OpenAI-compatible endpoint; key: OPENAI_API_KEY")
    translate.add_argument("--workers", type=positive, default=4, metavar="N", help="requests at a time (%(default)s)")
    translate.add_argument("--temperature", type=float, help="of the endpoint's model; default: the server's")
    translate.add_argument("--batch-size", type=positive, default=8, metavar="N", help="of a local model (%(default)s)")
    translate.add_argument(
        "--max-new-tokens", type=positive, default=2048, metavar="N", help="of a local model (%(default)s)"
    )
    translate.add_argument("--device", help="of a local model; default: a GPU if there is one")
    translate.set_defaults(run=_translate)

    merge = data.add_parser("merge", help="put training data together")
    merge.add_argument("data", nargs="+", type=Path, help="folders of training data of one knowledge base")
    _add_out(merge)
    merge.set_defaults(run=_merge)
    stats = data.add_parser("stats", help="say what training data is made of")
    stats.add_argument("data", type=Path, help="training data")
    stats.set_defaults(run=_stats)

    accelerate = commands.add_parser("accelerate-config", help="say where a configuration for accelerate launch is")
    accelerate.add_argument("name", help="ddp, fsdp2 or zero3")
    accelerate.set_defaults(run=_accelerate_config)

    push = commands.add_parser("push", help="upload a trained memory encoder to the Hugging Face Hub")
    push.add_argument("source", help="folder of the memory encoder")
    push.add_argument("repository", metavar="OWNER/NAME", help="on the Hub; made if need be")
    push.add_argument("--private", action="store_true", help="for no one but you; refused if it is there and public")
    push.add_argument("--revision", metavar="BRANCH", help="to upload to; made if need be")
    push.add_argument("--results", type=Path, metavar="FOLDER", help="of lmms-eval, for the card: its table")
    push.add_argument("--license", metavar="NAME", help="by the Hub's list; without, the card names none")
    push.add_argument("--base", metavar="OWNER/NAME", help="the VLM on the Hub, where it was trained from a folder")
    push.add_argument("--card-only", type=Path, metavar="FILE", help="write the card, and upload nothing")
    push.set_defaults(run=_push)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write; must not be there")


def _from_samples(arguments: argparse.Namespace) -> None:
    from comem_lmms.training.synthesis.selecting import Rules, from_samples

    _hush()
    against = None if arguments.against is None else arguments.against.split(",")
    names = ("keep", "metric", "threshold", "per_question", "min_items", "overlap")
    rules = Rules(**{name: getattr(arguments, name) for name in names})
    more = (arguments.knowledge, arguments.include_path)
    _say(from_samples(arguments.rollouts, arguments.out, rules, against, *more))


def _translate(arguments: argparse.Namespace) -> int | None:
    from comem_lmms.training.synthesis.store import SampleFolder
    from comem_lmms.training.synthesis.translating import languages, translate
    from comem_lmms.training.synthesis.translators import Endpoint, Local

    _hush()
    data = SampleFolder.open(arguments.data)
    names = languages(arguments.languages.split(","))
    if arguments.api_base:
        translator: Any = Endpoint(arguments.api_base, arguments.model, arguments.workers, arguments.temperature)
    else:
        translator = Local(arguments.model, arguments.batch_size, arguments.max_new_tokens, arguments.device)
    try:
        _say(translate(data, arguments.out, names, arguments.per_language, arguments.seed, translator))
    except KeyboardInterrupt:
        print("comem-lmms: interrupted; run the same command again to go on, what is done is kept", file=sys.stderr)
        return INTERRUPTED
    return None


def _merge(arguments: argparse.Namespace) -> None:
    from comem_lmms.training.synthesis.merging import merge

    _hush()
    _say(merge(arguments.data, arguments.out))


def _stats(arguments: argparse.Namespace) -> None:
    from comem_lmms.training.synthesis.store import SampleFolder

    _say(SampleFolder.open(arguments.data).manifest)


def _accelerate_config(arguments: argparse.Namespace) -> None:
    from comem_lmms.training.settings import ACCELERATE, find_yaml

    print(find_yaml(ACCELERATE, arguments.name, "configuration of accelerate"))


def _push(arguments: argparse.Namespace) -> None:
    from comem_lmms.training.push import Parcel, check_name, push

    check_name(arguments.repository)
    parcel = Parcel(arguments.source, arguments.base)
    card = parcel.add_card(arguments.repository, arguments.license, arguments.results)
    if arguments.card_only is not None:
        try:
            arguments.card_only.write_text(card, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {arguments.card_only} ({error.strerror}); name another file") from error
        print(f"{arguments.card_only}: the card; nothing was uploaded")
        return
    pushed = push(parcel, arguments.repository, arguments.private, arguments.revision)
    print(f"{pushed.url}: use it as memory_encoder={arguments.repository}@{pushed.commit}")


def _say(manifest: dict[str, Any]) -> None:
    from comem_lmms.training.synthesis.stats import stats

    print("\n".join(stats(manifest)))


def _hush() -> None:
    """lmms-eval tells about every file that it reads, datasets shows a bar for each; errors come as UserError."""
    import datasets
    from loguru import logger

    logger.remove()
    datasets.disable_progress_bars()
