"""A memory encoder and what its training wrote in, the model card that the Hub shows of it out.

Of this machine a card tells nothing: folders are named by the last part of their path.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from comem_lmms.training.paths import Paths, without_paths
from comem_lmms.training.settings import FREE
from comem_lmms.training.synthesis.stats import stats
from comem_lmms.training.synthesis.store import WHAT
from comem_lmms.training.train import RECORD

from comem_lmms.encoder import fingerprint, model_card
from comem_lmms.errors import UserError
from comem_lmms.files import read_json
from comem_lmms.report import Table, build, write
from comem_lmms.report.lines import Line, Result

log = logging.getLogger(__name__)

POINTS = 10  # of a curve in the card
# Settings that name folders, which others do not have, or do not change a weight.
OWN = {"data", "knowledge", "pretrained", "start", *FREE}


def make_card(
    folder: Path,
    about: dict[str, Any],
    adapter: dict[str, Any] | None,
    repository: str,
    licence: str | None = None,
    results: Path | None = None,
) -> str:
    """The card of an encoder, Markdown with the Hub's metadata in front.

    Args:
        folder: of the encoder; what its training wrote beside it is told of, if it is there.
        about: the encoder's configuration, with the VLM as others have it.
        adapter: that of its adapter; None if it is merged.
        repository: where it goes.
        licence: by the Hub's list; none is claimed without.
        results: of lmms-eval, some of them this encoder's.

    Raises:
        UserError: no result is of this encoder.
    """
    metadata = {} if licence is None else {"license": licence}
    parts = [model_card(about, adapter, repository, **metadata)]
    parts.append(f"`memory_encoder={repository}@COMMIT` pins a commit.")
    names = {str(folder): repository, **{name: name for name in (repository, about["vlm"])}}
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    record = Paths(record, names).cut(record)
    if "losses" in record:  # others' recipes write another record
        parts += [*_reader(about, record["settings"], repository), *_training(record)]
    identity = fingerprint(str(folder))
    if results is not None:
        table = _without_earlier(build([results]), folder, identity)
        table = _shareable(table, names)
        head, end, rest = parts[0].partition("\n---\n")
        parts[0] = f"{head}\n{write(_of(table, folder, identity), 'hf')}{end}{rest}"
        parts += ["## Results", write(table, "md")]
    parts += ["## Versions and fingerprints", *_identity(record, identity)]
    return without_paths("\n\n".join(part.strip() for part in parts) + "\n", names)


def _reader(about: Mapping[str, Any], settings: Mapping[str, Any], repository: str) -> Iterator[str]:
    """How it is used if it was made for a text LLM that answers."""
    if reader := settings.get("reader"):
        yield (
            f"It was trained for the text LLM {reader} as the reader of its memories, which takes it merged:\n\n"
            f"    comem-lmms merge {repository} MERGED --layout reference\n"
            f"    lmms-eval --model comem --tasks TASK --model_args "
            f"pretrained={about['vlm']},memory_encoder=MERGED,reader={reader},knowledge=KNOWLEDGE_BASE"
        )


def _training(record: Mapping[str, Any]) -> Iterator[str]:
    """What it learnt from, how, and how that went."""
    yield "## Training"
    left_out = len(record["left_out"])
    yield (
        f"{record['step']} steps on {record['samples']} samples, {record['tokens']:,} tokens read"
        f"{f'; {left_out} samples were left out' if left_out else ''}. Loss: mean cross-entropy of the answers' tokens."
    )
    if record.get("start_fingerprint"):
        yield "It went on from another memory encoder (start, below), so this is the last part of what it learnt."
    yield "\n".join(curve(record))
    settings = {name: value for name, value in record["settings"].items() if name not in OWN and value is not None}
    yield f"```yaml\n{yaml.safe_dump(settings, sort_keys=False)}processes: {record['processes']}\n```"
    manifest = record["data_manifest"]
    yield "### Data"
    told = stats(manifest) if manifest.get("what") == WHAT else [f"{manifest.get('samples', 'some')} samples"]
    yield "\n".join(["```text", *told, "```"])


def curve(record: Mapping[str, Any]) -> Iterator[str]:
    """Losses as a table of a few lines: the mean over the steps since the line before, and what was held out."""
    losses, held_out = record["losses"], dict(record["evaluations"])
    right = dict(record.get("exact_matches", ()))
    measured = [("held-out loss", held_out, ".4f"), ("exact match", right, ".1%")]
    measured = [(name, values, form) for name, values, form in measured if values]
    yield " | ".join(["| step | loss", *(name for name, _, _ in measured)]) + " |"
    yield "|" + "---:|" * (2 + len(measured))
    first = 0
    for last in _marks(len(losses)):
        cells = [str(last), f"{fmean(losses[first:last]):.4f}"]
        for _, values, form in measured:
            newest = [value for step, value in values.items() if first < step <= last][-1:]
            cells.append(format(newest[0], form) if newest else "-")
        yield f"| {' | '.join(cells)} |"
        first = last


def _marks(steps: int) -> list[int]:
    """The last steps of at most POINTS stretches of like length."""
    return sorted({round(steps * part / POINTS) for part in range(1, POINTS + 1)} - {0})


def _of(table: Table, folder: Path, identity: str) -> Table:
    """The lines of a table that are this encoder's, without controls."""
    kept = [place for place, line in enumerate(table.lines) if _is_of(line, folder, identity) and not line.is_control]
    if not kept:
        raise UserError(
            f"none of the results is of this memory encoder (fingerprint {identity[:16]}); evaluate it with "
            f"lmms-eval --model comem --model_args memory_encoder={folder} --log_samples, or leave --results out"
        )
    return _only(table, kept)


def _without_earlier(table: Table, folder: Path, identity: str) -> Table:
    """A table without lines of which a result is of another encoder that was in this one's folder."""
    kept = []
    for place, line in enumerate(table.lines):
        if _is_of(line, folder, identity) or not any(_names(one, folder) for one in line.results.values()):
            kept.append(place)
        else:
            log.warning("not in the card: %s, %s has results of an earlier encoder", line.name, line.model)
    return _only(table, kept)


def _only(table: Table, kept: Sequence[int]) -> Table:
    def of(rows: Sequence[Any]) -> list[Any]:
        return [rows[place] for place in kept]

    return replace(table, lines=of(table.lines), cells=of(table.cells), costs=of(table.costs))


def _shareable(table: Table, names: Mapping[str, str]) -> Table:
    """The table without this machine's paths in what its lines and notes are called."""
    arguments = [result.run.arguments for line in table.lines for result in line.results.values()]
    cut = Paths([arguments, [(line.model, line.retrieval) for line in table.lines]], names).cut
    lines = [
        replace(line, model=cut(line.model), retrieval=cut(line.retrieval), variant=cut(line.variant))
        for line in table.lines
    ]
    return replace(table, lines=lines, notes=cut(table.notes), remarks=cut(table.remarks))


def _is_of(line: Line, folder: Path, identity: str) -> bool:
    """Whether all its results are: an encoder may have been trained again between two tasks."""
    return all(_result_is_of(result, folder, identity) for result in line.results.values())


def _result_is_of(result: Result, folder: Path, identity: str) -> bool:
    """By the fingerprints in the log, or where it tells none (answers of a cache) by the folder."""
    prints = [(usage.get("fingerprints") or {}).get("memory_encoder") for usage in result.answers.usages]
    told = {str(one) for one in prints if one}
    return all(identity.startswith(one) for one in told) if told else _names(result, folder)


def _names(result: Result, folder: Path) -> bool:
    given = result.run.arguments.get("memory_encoder")
    return given is not None and Path(given).resolve() == folder.resolve()


def _identity(record: Mapping[str, Any], identity: str) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items())
    parts = ("data", "knowledge", "vlm", "reader", "start")
    told = {part: record.get(f"{part}_fingerprint") for part in parts}
    lines = [f"- {part}: `{value}`" for part, value in {"memory encoder": identity, **told}.items() if value]
    yield "\n".join([*([f"- {versions}"] if versions else []), *lines])
