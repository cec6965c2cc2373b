"""An ablation trains and evaluates what is not there, loses nothing to a failure, and ends in a table and a plot."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from comem_lmms.training import ablate
from comem_lmms.training.ablate import Ablation, Variant, figure, table, variants
from comem_lmms.training.settings import load
from comem_lmms.training.train import train
from PIL import Image
from safetensors.torch import load_file, save_file
from samples import rows_of, write

from comem_lmms import micro
from comem_lmms.report import Row
from comem_lmms.report.figures import Point

SHIPPED = sorted(path.stem for path in ablate.CONFIGS.glob("*.yaml"))
SMALL = ["depth=2", "rank=4", "global_batch=4", "batch_size=4", "max_steps=3", "save_every=1", "eval_samples=2"]
GIVEN = ["data=d", "out=o"]


@pytest.fixture
def command(monkeypatch, capsys):
    """The command in this process, with its processes as they are; its status, and what it says."""

    def run(config, *more):
        given = ["--config", config, "--base", "micro", "--tasks", "microseek", "--limit", "4", "--batch_size", "4"]
        monkeypatch.setattr("sys.argv", ["ablate", *map(str, [*given, *more])])
        capsys.readouterr()
        return ablate.main(), capsys.readouterr()

    return run


def test_an_ablation(command, questions, knowledge, tmp_path):
    """Of heads: 7 do not divide the VLM's width, which shows when it is loaded; 5 were interrupted before."""
    ids = [knowledge.id(row) for row in range(500, 600)]
    data = write(tmp_path / "data", rows_of(questions, ids, 14), knowledge)
    out, config = tmp_path / "out", tmp_path / "heads.yaml"
    settings = [*SMALL, f"data={data}", "tracker=none"]
    given = ("--set", *settings, f"out={out}")
    config.write_text(yaml.safe_dump({"setting": "heads", "values": [7, 4], "label": "heads"}))
    status, said = command(config, *given)
    assert status == 1
    assert re.search(
        r"\n\| 7 +\| +- \| +- \| +- \| +- \|\n\| 4 +\| +\d+\.\d ± \d+\.\d \| +\d+\.\d{4} \| +3 \| +12 \|", said.out
    )
    assert "\n- heads=7 failed: " in said.out
    assert "heads=7 does not divide the width of 'micro', 160; give a divisor" in said.out
    assert "- microseek: 4 questions, exact_match" in said.out
    assert (out / "table.md").read_text() == said.out

    AcceleratorState._reset_state(reset_partial_state=True)
    interrupted = out / "heads-5/encoder"
    train(load("micro", [*settings, "heads=5", f"out={interrupted}"]))
    (interrupted / "training.json").unlink()
    shutil.rmtree(interrupted / "checkpoints/step-0000003")
    config.write_text(yaml.safe_dump({"setting": "heads", "values": [4, 5], "label": "heads of the resampler"}))
    before = [path for path in (out / "heads-4").rglob("*") if path.is_file()]
    times = [path.stat().st_mtime_ns for path in before]
    status, said = command(config, *given)
    assert status == 0
    assert [path for path in (out / "heads-4").rglob("*") if path.is_file()] == before
    assert [path.stat().st_mtime_ns for path in before] == times
    assert json.loads((interrupted / "training.json").read_text())["last_session"]["steps"] == 1
    assert [line.split()[1] for line in said.out.splitlines()[2:4]] == ["4", "5"]
    assert Image.open(out / "plot.png").width > 900
    assert "heads of the resampler" in (out / "plot.svg").read_text()

    status, said = command(config, *given[:-1], "lr=0.1", given[-1])
    assert status == 1
    assert f"{out}/heads-4/encoder was trained with lr=0.002, not 0.1; give another out=" in said.out

    weights = load_file(interrupted / "resampler.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, interrupted / "resampler.safetensors")
    assert command(config, *given)[0] == 0
    assert [len(list((out / f"heads-{heads}/results").iterdir())) for heads in (4, 5)] == [1, 2]

    shutil.rmtree(data)
    write(data, rows_of(questions, ids, 15), knowledge)
    status, said = command(config, *given)
    assert status == 1
    assert re.search(r"heads-5/encoder was trained with data_fingerprint='\w{64}', not '\w{64}'; give ano", said.out)


def test_what_ships_can_be_run():
    assert {"data_fraction", "depth", "rank", "vectors"} == set(SHIPPED)
    assert Ablation.load("vectors").values == [4, 8, 16, 24]  # the paper's
    for name in SHIPPED:
        ablation = Ablation.load(name)
        found = variants(ablation, "qwen2_5_vl_7b", [*GIVEN, "knowledge=k"])
        assert [getattr(variant.settings, ablation.setting) for variant in found] == ablation.values
        assert [variant.folder for variant in found] == [Path(f"o/{name}-{value}") for value in ablation.values]


def test_mistakes_are_found_before_anything_is_trained(tmp_path, command):
    def said(content, *more):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
        status, told = command(tmp_path / "a.yaml", *more)
        assert status == 2
        (line,) = told.err.splitlines()
        return line.removeprefix("comem_lmms.training.ablate: ")

    good = {"setting": "rank", "values": [4], "label": "rank"}
    given = ("--set", *GIVEN)
    assert "does not have setting and label (texts) and values (a list), and nothing else" in said(
        {"setting": "rank"}, *given
    )
    assert "does not have setting" in said({**good, "values": 4}, *given)
    assert "does not have setting and label (texts)" in said({**good, "label": None}, *given)
    assert "does not have setting and label (texts)" in said({**good, "setting": 4}, *given)
    assert said({**good, "setting": "ranks"}, *given).startswith("unknown setting ranks=4; known: ")
    assert said({**good, "values": [4, 0]}, *given) == "rank=0 must be at least 1"
    assert said(good, *given, "rank=3") == "--set rank=3 is what is varied; leave it out"
    assert said(good, *given, "reader=llm").startswith("reader='llm' cannot be ablated")
    start = ("vectors=8", "depth=4", f"start={micro.resolve('micro', 'memory_encoder')}")
    assert "has rank=16, and 4 is asked for; change rank=" in said(good, *given, *start)
    assert said(good) == "setting 'data' is missing; write it into the file, or give --set data=..."
    assert said(good, *given, "--model_args", "top_k=10,fast") == "--model_args 'fast' is not of the form name=value"
    assert said(good, *given, f"out={tmp_path / 'o'}", "--tasks", "microsek").startswith(
        "lmms-eval has no task 'microsek'; did you mean microseek"
    )
    assert not list((tmp_path / "o").rglob("encoder"))
    _, told = command("vector", *given)
    assert told.err.strip().endswith(
        "no ablation at 'vector'; give a YAML file, or one of data_fraction, depth, rank, vectors"
    )


def test_every_value_has_a_folder_below_out_and_is_as_the_file_has_it(tmp_path):
    values = ["Qwen/Qwen2-VL", "../x", "a,b=c", None]
    found = variants(Ablation("attn_implementation", values, "attention"), "micro", ["data=d", f"out={tmp_path}/a b"])
    assert [variant.settings.attn_implementation for variant in found] == values
    assert {variant.folder.parent for variant in found} == {tmp_path / "a b"}
    assert len({variant.folder for variant in found}) == len(values)
    assert not any("," in variant.folder.name for variant in found)  # which ends a model argument


def test_a_process_may_say_what_is_no_text(tmp_path, command):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"setting": "rank", "values": [4], "label": "rank"}))
    launch = ("--launch", r"""sh -c "printf '\377no\n'; exit 3" """)
    status, said = command(tmp_path / "a.yaml", "--set", "data=d", f"out={tmp_path}/out", *launch)
    assert status == 1
    assert "- rank=4 failed: \N{REPLACEMENT CHARACTER}no (status 3; " in said.out


def test_a_table_of_several_tasks(tmp_path):
    def row(task, accuracy, stderr):
        return Row(task, "comem", "", "clip", accuracy, stderr, 10, *[None] * 6, metric="exact")

    found = variants(Ablation("rank", [4, 8], "rank"), "micro", ["data=d", f"out={tmp_path}"])
    found[0].rows = [row("a", 12.34, 5.0), row("b", None, None)]
    found[1].rows = [row("a", 50.0, None), row("b", 1.0, 0.5)]
    assert (
        table(Ablation("rank", [4, 8], "rank"), found)
        == """\
| rank |        a % |       b % | held-out loss | steps | samples |
|------|-----------:|----------:|--------------:|------:|--------:|
| 4    | 12.3 ± 5.0 |         - |             - |     - |       - |
| 8    |       50.0 | 1.0 ± 0.5 |             - |     - |       - |

- a: 10 questions, exact
- b: 10 questions, exact"""
    )
    assert isinstance(found[0], Variant)
    shown = figure(Ablation("rank", [4, 8], "rank"), found)
    assert (shown.x, shown.categories) == ("rank", ["4", "8"])
    assert [(one.label, one.points) for one in shown.series] == [
        ("a", [Point(0, 12.34, 5.0), Point(1, 50.0, None)]),
        ("b", [Point(1, 1.0, 0.5)]),
    ]
