"""Figures in, PNG and SVG files out, the same bytes every time.

Series differ in colour (Okabe and Ito's, which colour-blind people tell apart) and in marker; controls are hollow. Text
in SVG stays text, with the letters it needs of its font.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from html import unescape
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

from comem_lmms.errors import UserError
from comem_lmms.report.figures import Figure, Series

KINDS = ("png", "svg")
# Without yellow, which is too light on white.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # one more, so that pairs repeat after 56
FONT = "DejaVu Sans"  # comes with matplotlib
_STYLE: Any = {
    "font.family": FONT,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "comem-lmms",
    "text.parse_math": False,  # names of models may hold dollars
    "savefig.dpi": 200,
}
_WIDTH = 6.4  # inches
_BESIDE, _LABEL = 96, 44  # letters that fit across a figure, and of a line of its legend


def draw(figures: Sequence[Figure], folder: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Writes ``NAME.png`` and ``NAME.svg`` for each figure, each with the `digest` of the figure in it.

    Raises:
        UserError: matplotlib is not installed, or the folder cannot be written to.
    """
    with _drawing(folder) as canvas:
        return [path for figure in figures for path in _write(canvas, figure, folder, kinds)]


def digest(figure: Figure) -> str:
    """Of what a figure shows."""
    return sha256(json.dumps(figure.as_json(), sort_keys=True).encode()).hexdigest()


@contextmanager
def _drawing(folder: Path) -> Iterator[Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise UserError('--plots needs matplotlib, which is not installed; pip install "comem-lmms[plots]"') from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # whatever a user's matplotlibrc says
            matplotlib.rcParams.update(_STYLE)
            yield Canvas
    except OSError as error:
        raise UserError(f"cannot write plots to {folder} ({error.strerror}); name another folder") from error


def _write(canvas: Any, figure: Figure, folder: Path, kinds: Sequence[str]) -> list[Path]:
    height = 0.5 + len(figure.categories) * (0.15 + 0.09 * len(figure.series)) if figure.kind == "rows" else 3.2
    labels = [_label(series) for series in figure.series]
    columns = max(1, min(len(labels), _BESIDE // (10 + max(map(len, "\n".join(labels).split("\n"))))))
    legend = sum(
        max(label.count("\n") + 1 for label in labels[i : i + columns]) for i in range(0, len(labels), columns)
    )
    drawn = canvas(figsize=(_WIDTH, height + 0.2 * legend + 0.5), layout="constrained")
    axes = drawn.add_subplot()
    handles = {"numbers": _numbers, "categories": _categories, "rows": _rows}[figure.kind](axes, figure)
    axes.set_xlabel(fill(figure.x, _BESIDE))
    axes.set_ylabel(fill(figure.y, _LABEL))
    if figure.title:
        axes.set_title(fill(figure.title, _BESIDE), fontsize="medium", loc="left")
    drawn.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    paths = []
    for kind in kinds:
        content = BytesIO()
        without = {"Date": None, "Creator": None} if kind == "svg" else {}
        drawn.savefig(content, format=kind, metadata={"Description": digest(figure), **without})
        picture = content.getvalue()
        paths.append(folder / f"{figure.name}.{kind}")
        paths[-1].write_bytes(_with_font(picture.decode()).encode() if kind == "svg" else picture)
    return paths


def _label(series: Series) -> str:
    """In the legend, from which matplotlib leaves out what begins with an underscore."""
    label = fill(series.label, _LABEL)
    return f"\u200b{label}" if label.startswith("_") else label


def _look(series: Series) -> dict[str, Any]:
    colour, marker = COLOURS[series.place % len(COLOURS)], MARKERS[series.place % len(MARKERS)]
    hollow = {"markerfacecolor": "none", "markersize": 9} if series.is_control else {"markersize": 6}
    return {"color": colour, "marker": marker, "markeredgewidth": 1.2, "capsize": 2.5, "elinewidth": 1, **hollow}


def _numbers(axes: Any, figure: Figure) -> list[Any]:
    handles = []
    for series in figure.series:
        if series.is_level:
            axes.axhline(series.points[0].y, color=_look(series)["color"], linestyle=":", linewidth=1)
        handles.append(_plot(axes, series, [point.x for point in series.points]))
        # Curves take turns in writing above and below, so that two do not write into each other.
        side, away = ("bottom", 6) if len(handles) % 2 else ("top", -6)
        for point in series.points:
            axes.annotate(
                point.text,
                (point.x, point.y),
                (0, away),
                textcoords="offset points",
                ha="center",
                va=side,
                fontsize="small",
                color=_look(series)["color"],
            )
    axes.margins(x=0.07, y=0.1)
    known = [point.x for series in figure.series for point in series.points if point.x > 0]
    if figure.name == "accuracy-k":
        axes.set_xticks(sorted({point.x for series in figure.series for point in series.points}))
    elif known and max(known) > 5 * min(known):
        _logarithmic(axes)
    return handles


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _categories(axes: Any, figure: Figure) -> list[Any]:
    handles = []
    for number, series in enumerate(figure.series):
        places = [point.x + _aside(number, len(figure.series), 0.5) for point in series.points]
        handles.append(_plot(axes, series, places))
    axes.set_xticks(range(len(figure.categories)), figure.categories)
    axes.set_xlim(-0.5, len(figure.categories) - 0.5)
    axes.grid(axis="x", visible=False)
    return handles


def _rows(axes: Any, figure: Figure) -> list[Any]:
    handles = []
    for number, series in enumerate(figure.series):
        places = [point.x + _aside(number, len(figure.series), 0.75) for point in series.points]
        look = {**_look(series), "markersize": 6 if series.is_control else 4.5}
        values, errors = [point.y for point in series.points], [point.error or 0 for point in series.points]
        handles.append(axes.errorbar(values, places, xerr=errors, linestyle="none", **look)[0])
    axes.set_yticks(range(len(figure.categories)), [fill(name, 30) for name in figure.categories])
    axes.set_ylim(len(figure.categories) - 0.5, -0.5)  # the first on top
    axes.grid(axis="y", visible=False)
    for border in range(1, len(figure.categories)):
        axes.axhline(border - 0.5, color="#dddddd", linewidth=0.6)
    return handles


def _plot(axes: Any, series: Series, xs: Sequence[float]) -> Any:
    """Returns what stands in the legend: the points without their error bars."""
    values, errors = [point.y for point in series.points], [point.error or 0 for point in series.points]
    line = {"linestyle": "-", "linewidth": 1} if series.is_joined else {"linestyle": "none"}
    return axes.errorbar(xs, values, errors, **line, **_look(series))[0]


def _aside(number: int, of: int, width: float) -> float:
    """Where among others that share a category."""
    return width * ((number + 0.5) / of - 0.5)


def _with_font(svg: str) -> str:
    """The SVG with those letters of its font that occur in it, so that it looks the same where the font is not."""
    from fontTools import subset
    from fontTools.ttLib import TTFont
    from matplotlib import font_manager

    font = TTFont(font_manager.findfont(FONT))
    options = subset.Options(layout_features=[], hinting=False, name_IDs=[])
    options.drop_tables += ["FFTM"]  # of the program that made the font
    chosen = subset.Subsetter(options)
    chosen.populate(text=unescape("".join(re.findall(r">([^<]*)</text>", svg))))
    chosen.subset(font)
    font.flavor, font.recalcTimestamp = "woff", False
    file = BytesIO()
    font.save(file)
    data = b64encode(file.getvalue()).decode()
    face = f'@font-face{{font-family:"{FONT}";src:url(data:font/woff;base64,{data})}}'
    head, defs, rest = svg.partition("<defs>")
    return f"{head}{defs}\n  <style>{face}</style>{rest}"
