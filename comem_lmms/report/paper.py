"""What the paper states: its numbers by model, method and column, and what is odd about them. A file of facts in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("paper.json")


@dataclass(frozen=True)
class Paper:
    """The tables of ``paper.json``.

    Attributes:
        source: which paper.
        metric: which of ours its numbers are of.
        models: the paper's name of a model, by what the Hub calls it, in lower case.
        values: in percent, by the paper's name of the model, method, and name of the column.
        inconsistencies: a sentence each.
    """

    source: str
    metric: str
    models: Mapping[str, str]
    values: Mapping[tuple[str, str, str], float]
    inconsistencies: Sequence[str]

    def value(self, method: str, model: str, task: str, split: str) -> float | None:
        """What is stated of a method (by our name of it) with a model (a Hub id, or a folder named like one)."""
        name = self.models.get(Path(model).name.lower())
        return self.values.get((name or "", method, f"{task} {split}".strip()))


def load_paper() -> Paper:
    """The paper's numbers as they ship."""
    told = json.loads(FILE.read_text(encoding="utf-8"))
    values = {
        (model, method, name): value
        for table in told["tables"]
        for model, method, *numbers in table["rows"]
        for names, value in zip(table["columns"], numbers, strict=True)
        for name in names
        if value is not None
    }
    models = {Path(hub).name.lower(): name for name, on_hub in told["models"].items() for hub in on_hub}
    return Paper(told["source"], told["metric"], models, values, told["inconsistencies"])
