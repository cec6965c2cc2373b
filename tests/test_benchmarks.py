"""Tables in the documents are those of the committed measurements."""

import json
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_peak_memory_at_a_real_size_is_the_measured_one():
    methods = json.loads((ROOT / "benchmarks/results/answering-3b-cpu.json").read_text())["methods"]
    ratio = methods["comem_on_the_spot"]["peak_gb"] / methods["baseline"]["peak_gb"]
    assert f"{ratio:.2f} times the baseline's" in " ".join((ROOT / "docs/memory.md").read_text().split())
    assert ratio <= 1.15


def test_what_training_costs_beside_the_reference_is_the_measured_one():
    measured = json.loads((ROOT / "benchmarks/results/training-7b-cuda.json").read_text())["arrangements"]
    ours, reference = measured["batch 2"], measured["reference"]
    memory, speed = (ours[what] / reference[what] for what in ("peak_gb", "samples_per_second"))
    said = " ".join((ROOT / "README.md").read_text().split())
    assert f"{memory:.2f} times the memory of the reference's arrangement" in said
    assert f"{speed:.2f} times as many samples a second" in said
    assert memory <= 0.6
    assert speed >= 1.5


@pytest.mark.parametrize("name", ["answering", "linking", "stored", "training", "training_weights"])
def test_the_table_of_a_document_is_the_measured_one(name):
    spec = util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    benchmark = util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    written = benchmark.DOCUMENT.read_text()
    assert written.count(benchmark.START) == 1
    measured = [json.loads(benchmark.MEASURED.read_text())] if hasattr(benchmark, "MEASURED") else []
    assert benchmark.block(*measured) in written
