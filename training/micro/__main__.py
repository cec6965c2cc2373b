"""Trains all micro models one after the other and evaluates them: a seed in, models and a table out.

    python -m comem_lmms.training.micro OUT [--seed 2]

A part that is there already is not trained again, so an interrupted run goes on where it was.
"""

import argparse
import shutil
from pathlib import Path

from comem_lmms.training.micro.common import in_one_line, run

from comem_lmms import micro
from comem_lmms.errors import UserError
from comem_lmms.files import read_json
from comem_lmms.knowledge import KnowledgeBase
from comem_lmms.retrieval import ClipEmbedder, Index, embed

PARTS = ("clip", "vlm", "memory_encoder")
RUNS = ("baseline", "vanilla_rag", "comem", "vanilla_rag:oracle", "comem:oracle", "comem:wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    with in_one_line():
        train_all(args.out, args.seed)


def train_all(out: Path, seed: int) -> None:
    """Models, then the table.

    Raises:
        UserError: what is there is of another seed, or cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for log in (out / part / "training.json" for part in PARTS):
        if log.is_file() and (found := read_json(log)["settings"]["seed"]) != seed:
            raise UserError(f"{log.parent} is of seed {found}, not {seed}; name another folder")
    _train("clip", out / "clip", "--seed", str(seed))
    _train("vlm", out / "vlm", "--seed", str(seed))
    _train("memory", out / "memory_encoder", "--vlm", str(out / "vlm"), "--seed", str(seed))
    _index(out)
    for row in RUNS:
        _evaluate(out, *row.split(":"))
    run("comem_lmms.cli", "report", str(out / "results"), "--json", str(out / "summary.json"), "--rows", str(len(RUNS)))


def _train(recipe: str, out: Path, *arguments: str) -> None:
    if not (out / "training.json").is_file():
        run(f"comem_lmms.training.micro.{recipe}", str(out), *arguments)


def _index(out: Path) -> None:
    """MicroSeek's knowledge base with an index of the new CLIP."""
    shutil.copytree(micro.resolve("micro", "knowledge"), out / "knowledge", dirs_exist_ok=True)
    knowledge = KnowledgeBase.open(out / "knowledge")
    shutil.rmtree(knowledge.folder / "embeddings", ignore_errors=True)  # of a CLIP that was trained before
    embed(knowledge, ClipEmbedder(f"local-dir:{out / 'clip'}"))
    Index.build(knowledge)


def _evaluate(out: Path, model: str, retrieval: str = "clip") -> None:
    arguments = {"pretrained": out / "vlm"}
    if model != "baseline":
        arguments |= {"knowledge": out / "knowledge", "retrieval": retrieval}
    if model == "comem":
        arguments["memory_encoder"] = out / "memory_encoder"
    given = ",".join(f"{name}={value}" for name, value in arguments.items())
    folder = out / "results" / f"{model}_{retrieval}"
    command = ["--model", model, "--model_args", given, "--tasks", "microseek", "--batch_size", "8"]
    run("lmms_eval", *command, "--log_samples", "--output_path", str(folder))


if __name__ == "__main__":
    main()
