"""Trains and evaluates a memory encoder for each value of a setting: a small file in, a table and a plot out.

    python -m comem_lmms.training.ablate --config vectors --base qwen2_5_vl_7b --tasks infoseek,okvqa \\
        --set data=DATA knowledge=KNOWLEDGE out=OUT

The same command goes on where it was: what is trained and evaluated is not done again. docs/training.md.
"""

import argparse
import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from comem_lmms.training.settings import DEFAULTS, FREE, Settings, find_yaml, load, read_yaml
from comem_lmms.training.start import check_start
from comem_lmms.training.train import RECORD, fingerprints_of, open_data

from comem_lmms import micro
from comem_lmms.encoder import fingerprint
from comem_lmms.errors import UserError
from comem_lmms.files import alone, on_disk, read_json
from comem_lmms.fingerprints import checkpoint_fingerprint
from comem_lmms.harness import matching
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.report import Row, read_rows, task_names
from comem_lmms.report.drawing import draw
from comem_lmms.report.figures import Figure, Point, Series
from comem_lmms.report.table import aligned, number

log = logging.getLogger("comem_lmms.training")

CONFIGS = Path(__file__).parent / "ablations"
# Settings that the evaluation is given, too.
SHARED = ("pretrained", "knowledge", "revision", "attn_implementation", "min_pixels", "max_pixels", "top_k")
PYTHON = f"{shlex.quote(sys.executable)} -m"


@dataclass(frozen=True)
class Ablation:
    """What is varied.

    Attributes:
        setting: of a training.
        values: of it, in order.
        label: what the plot calls it.
    """

    setting: str
    values: Sequence[Any]
    label: str

    @classmethod
    def load(cls, config: str) -> "Ablation":
        """That of a file, or of one that ships by its name.

        Raises:
            UserError: there is none, or it is not of that form.
        """
        given = read_yaml(find_yaml(CONFIGS, config, "ablation"))
        kinds = {"setting": str, "values": list, "label": str}
        if set(given) != set(kinds) or not all(isinstance(given[n], kind) and given[n] for n, kind in kinds.items()):
            raise UserError(
                f"{config} does not have setting and label (texts) and values (a list), and nothing else; see {CONFIGS}"
            )
        return cls(**given)


@dataclass
class Variant:
    """A training with one of the values.

    Attributes:
        value: of what is varied.
        settings: all of them.
        rows: its results, by task or group.
        failure: why there are none.
    """

    value: Any
    settings: Settings
    rows: list[Row] = field(default_factory=list)
    failure: str | None = None

    @property
    def folder(self) -> Path:
        """Of the encoder and its results."""
        return Path(self.settings.out).parent

    @property
    def record(self) -> dict[str, Any] | None:
        """What its training wrote; None before its end."""
        path = Path(self.settings.out) / RECORD
        return read_json(path) if path.is_file() else None


@dataclass(frozen=True)
class Evaluation:
    """How encoders are evaluated: what lmms-eval is given; ``model_args`` in addition to what training had."""

    tasks: Sequence[str]
    model_args: Mapping[str, str]
    batch_size: int
    limit: int | None

    def given(self, settings: Settings) -> dict[str, Any]:
        """The arguments of the model."""
        shared = {name: getattr(settings, name) for name in SHARED if getattr(settings, name) is not None}
        return {**shared, "dtype": settings.dtype, **self.model_args, "memory_encoder": settings.out}

    def arguments(self, settings: Settings) -> list[str]:
        """Of lmms-eval's command line, without the folder to write to."""
        given = self.given(settings)
        told = ["--model", "comem", "--model_args", ",".join(f"{name}={value}" for name, value in given.items())]
        told += ["--tasks", ",".join(self.tasks), "--batch_size", str(self.batch_size), "--log_samples"]
        return told if self.limit is None else [*told, "--limit", str(self.limit)]

    def fingerprints(self, settings: Settings) -> list[str]:
        """Of encoder, knowledge base and VLM, which may become others in the same place."""
        given = self.given(settings)
        return [
            fingerprint(settings.out),
            KnowledgeBase.open(micro.resolve(given["knowledge"], "knowledge")).fingerprint,
            checkpoint_fingerprint(given["pretrained"], given.get("revision")),
        ]


def variants(ablation: Ablation, base: str, overrides: Sequence[str]) -> list[Variant]:
    """A variant for each value, in folders below ``out=``.

    Raises:
        UserError: a value or another setting is no good, so nothing is trained.
    """
    if varied := [one for one in overrides if one.partition("=")[0] == ablation.setting]:
        raise UserError(f"--set {varied[0]} is what is varied; leave it out")
    out = Path(load(base, overrides).out)
    found = []
    for value in ablation.values:
        encoder = out / f"{ablation.setting}-{quote(str(value), safe='')}" / "encoder"  # a value may have slashes
        settings = load(base, overrides, {ablation.setting: value, "out": str(encoder)})
        if settings.reader:
            raise UserError(
                f"reader={settings.reader!r} cannot be ablated: its encoders are merged before use; leave it out"
            )
        if settings.start:
            check_start(settings)
        found.append(Variant(value, settings))
    return found


def ablate(ablation: Ablation, found: Sequence[Variant], evaluation: Evaluation, launch: str = PYTHON) -> str:
    """Trains and evaluates what has not been, and writes ``table.md``, ``plot.png`` and ``plot.svg``.

    Returns the table. A variant that fails is named in it, and the others go on.

    Args:
        launch: the command that starts a module, e.g. ``accelerate launch --multi_gpu -m``.

    Raises:
        UserError: matplotlib is not installed, there is no such task, or the table or the plot cannot be written.
    """
    if find_spec("matplotlib") is None:  # before days of training
        raise UserError("there is no plot without matplotlib; pip install 'comem-lmms[training]'")
    matching(evaluation.tasks)
    out = found[0].folder.parent
    with on_disk(out):
        out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        for variant in found:
            _make(variant, ablation.setting, evaluation, launch)
    text = table(ablation, found)
    with on_disk(out):
        (out / "table.md").write_text(text + "\n", encoding="utf-8")
    if (shown := figure(ablation, found)).series:
        draw([shown], out)
    return text


def table(ablation: Ablation, found: Sequence[Variant]) -> str:
    """Markdown: a line for each value, with the accuracy in percent and its standard error on each task."""
    names = list(dict.fromkeys(row.task for variant in found for row in variant.rows))
    lines = [[ablation.setting, *(f"{name} %" for name in names), "held-out loss", "steps", "samples"]]
    for variant in found:
        rows = {row.task: row for row in variant.rows}
        record = variant.record or {}
        lines.append([str(variant.value), *(_accuracy(rows.get(name)) for name in names)])
        lines[-1].append(number(record["evaluations"][-1][1] if record.get("evaluations") else None, 4))
        lines[-1] += [str(record.get(name, "-")) for name in ("step", "samples")]
    questions = {f"{row.task}: {row.questions} questions, {row.metric}" for v in found for row in v.rows}
    failures = [f"{ablation.setting}={v.value} failed: {v.failure}" for v in found if v.failure]
    notes = [f"- {note}" for note in (*sorted(questions), *failures)]
    return "\n".join([*aligned(lines, left=1), "", *notes])


def _make(variant: Variant, setting: str, evaluation: Evaluation, launch: str) -> None:
    """Trains and evaluates a variant, as far as that is left to do, or notes why it failed."""
    log.info("%s=%s", setting, variant.value)
    try:
        with on_disk(variant.folder):
            _train(variant, launch)
            variant.rows = _evaluate(variant, evaluation)
    except UserError as error:
        variant.failure = str(error)
        log.warning("%s=%s failed: %s", setting, variant.value, error)


def _train(variant: Variant, launch: str) -> None:
    """Trains what is not trained yet, or goes on."""
    wanted = asdict(variant.settings)
    if (record := variant.record) is not None:
        _check(variant, {**DEFAULTS, **record["settings"]}, wanted)
        _check(variant, record, fingerprints_of(variant.settings, open_data(variant.settings)))
        return
    variant.folder.mkdir(parents=True, exist_ok=True)
    config = variant.folder / "settings.yaml"
    config.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
    _run([*shlex.split(launch), "comem_lmms.training.train", "--config", str(config)], variant.folder)
    if variant.record is None:
        raise UserError(f"the training wrote no {RECORD}; see {variant.folder / 'log.txt'}")


def _check(variant: Variant, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError if what is trained is of something else than is wanted."""
    for name, value in wanted.items():
        if name not in FREE and before.get(name) != value:
            raise UserError(
                f"{variant.settings.out} was trained with {name}={before.get(name)!r}, not {value!r}; give another out="
            )


def _evaluate(variant: Variant, evaluation: Evaluation) -> list[Row]:
    """Evaluates what is not evaluated yet in this way, and reads the results."""
    arguments = evaluation.arguments(variant.settings)
    key = [arguments, evaluation.fingerprints(variant.settings)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    results = variant.folder / "results" / name
    if not _has(results, evaluation.tasks):
        _run([sys.executable, "-m", "lmms_eval", *arguments, "--output_path", str(results)], variant.folder)
        if not _has(results, evaluation.tasks):  # lmms-eval ends with status 0 whatever happens
            raise UserError(
                f"lmms-eval wrote no results of {', '.join(evaluation.tasks)}; see {variant.folder / 'log.txt'}"
            )
    return [row for row in read_rows(results) if row.task in evaluation.tasks]


def _has(results: Path, tasks: Sequence[str]) -> bool:
    return any(results.rglob("*_results.json")) and set(tasks) <= set(task_names(results))


def _run(command: Sequence[str], folder: Path) -> None:
    """Runs a command, whose words go to ``log.txt`` and to the terminal.

    Raises:
        UserError: it failed; with the last thing it said.
    """
    last = ""
    with (folder / "log.txt").open("a", encoding="utf-8") as log_file:
        # Each step of a progress bar becomes a line.
        environment = {"TQDM_MININTERVAL": "30", **os.environ}
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
            )
        except OSError as error:
            raise UserError(f"cannot start {command[0]!r} ({error.strerror}); give another --launch") from error
        assert process.stdout is not None
        with process:
            for line in process.stdout:
                log_file.write(line)
                sys.stderr.write(line)
                last = line.strip() or last
    if process.returncode:
        raise UserError(
            f"{last[-300:] or shlex.join(command)[:100]} (status {process.returncode}; {folder / 'log.txt'})"
        )


def figure(ablation: Ablation, found: Sequence[Variant]) -> Figure:
    """The accuracy on each task by the value."""
    tasks = dict.fromkeys(row.task for variant in found for row in variant.rows)
    series = [
        Series(
            task,
            place,
            False,
            [
                Point(x, row.accuracy, row.stderr)
                for x, variant in enumerate(found)
                for row in variant.rows
                if row.task == task and row.accuracy is not None
            ],
            is_joined=True,
        )
        for place, task in enumerate(tasks)
    ]
    values = [str(variant.value) for variant in found]
    return Figure("plot", "", ablation.label, "accuracy (%), ± standard error", "categories", series, values)


def _accuracy(row: Row | None) -> str:
    if row is None:
        return "-"
    return number(row.accuracy, 1) + ("" if row.stderr is None else f" ± {row.stderr:.1f}")


def _named(given: str) -> dict[str, str]:
    """``--model_args`` by name."""
    parts = [part.partition("=") for part in given.split(",") if part]
    if wrong := [name for name, equals, _ in parts if not equals]:
        raise UserError(f"--model_args {wrong[0]!r} is not of the form name=value")
    return {name: value for name, _, value in parts}


def main() -> int:
    """The command line; 1 if a variant failed, 2 if the user has to change something (said in one line)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(prog="comem_lmms.training.ablate", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a YAML file, or the name of an ablation that ships")
    parser.add_argument("--base", required=True, metavar="CONFIG", help="settings that are common: a file or a preset")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="in place of its own"
    )
    parser.add_argument("--tasks", required=True, help="of lmms-eval, e.g. infoseek,okvqa")
    parser.add_argument("--model_args", default="", help="of the evaluations, in addition to what training was given")
    parser.add_argument("--batch_size", type=int, default=1, help="of the evaluations (%(default)s)")
    parser.add_argument("--limit", type=int, help="questions of a task; default: all")
    parser.add_argument(
        "--launch", default=PYTHON, metavar="COMMAND", help="starts trainings: 'accelerate launch ... -m'"
    )
    arguments = parser.parse_args()
    try:
        more = _named(arguments.model_args)
        evaluation = Evaluation(arguments.tasks.split(","), more, arguments.batch_size, arguments.limit)
        ablation = Ablation.load(arguments.config)
        found = variants(ablation, arguments.base, arguments.set)
        print(ablate(ablation, found, evaluation, arguments.launch))
    except UserError as error:
        print(f"comem_lmms.training.ablate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("comem_lmms.training.ablate: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return int(any(variant.failure for variant in found))


if __name__ == "__main__":
    sys.exit(main())
