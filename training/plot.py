"""Accuracies by the value of a setting in, a figure out, for screen and print.

Lines differ in colours that the colour-blind tell apart, and in markers and dashes.
"""

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

from comem_lmms.files import on_disk

# Okabe and Ito's, without the yellow, which is not seen on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":")


class Series(NamedTuple):
    """A line: at each value, in percent, the accuracy and its standard error; None where it is not known."""

    name: str
    values: Sequence[str]
    accuracies: Sequence[float | None]
    errors: Sequence[float | None]


def plot(lines: Sequence[Series], label: str, files: Sequence[Path]) -> None:
    """Draws lines with error bars into files, by their endings; values stand at equal distances.

    Raises:
        UserError: a file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    values = list(dict.fromkeys(value for line in lines for value in line.values))
    for number, line in enumerate(lines):
        aside = 0.06 * (number - (len(lines) - 1) / 2)  # so that no error bar hides another
        axes.errorbar(
            [values.index(value) + aside for value in line.values],
            [nan if accuracy is None else accuracy for accuracy in line.accuracies],  # where the line is broken
            yerr=[error or 0.0 for error in line.errors],
            label=line.name,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=DASHES[number % len(DASHES)],
            capsize=3,
            linewidth=1.5,
            markersize=5,
        )
    axes.set_xticks(range(len(values)), values)
    axes.set_xlim(-0.4, len(values) - 0.6)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy (%), ± standard error")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False)
    for file in files:
        with on_disk(file):
            figure.savefig(file, dpi=200, metadata={"Date": None} if file.suffix == ".svg" else None)
