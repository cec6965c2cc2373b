"""The main table and the cost table in, LaTeX (booktabs) for a paper out."""

from comem_lmms.report import markdown
from comem_lmms.report.grids import HEAD, Grid, grids, labels
from comem_lmms.report.leaderboard import Cell, Table
from comem_lmms.report.markdown import has_paper, shown

PACKAGES = r"\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "’": "'",
    "–": "--",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def latex(table: Table, splits: bool = False) -> str:
    """A table environment for each table, for a document with `PACKAGES`."""
    columns = shown(table, splits)
    head = [*HEAD]
    for place, column in columns:
        head.append(escape(column.name) + _sup(column.marks))
        head += ["paper"] if has_paper(table, place) else []
    lines = []
    for names, cells in zip(labels(table), table.cells, strict=True):
        line, below = [escape(name) for name in names], ["", "", ""]
        for place, _ in columns:
            line.append(_cell(cells[place]))
            below.append(_small(markdown.difference(cells[place])))
            if has_paper(table, place):
                line.append(escape(markdown.stated(cells[place])))
                below.append("")
        lines += [line, *([below] if any(below) else [])]
    notes = [f"{_sup((mark,))} {escape(note)}" for mark, note in table.notes.items()]
    notes += map(escape, table.remarks)
    return "\n\n".join(
        [
            rf"% needs {PACKAGES}",
            _environment(escape(markdown.caption(table)), head, lines, notes),
            *map(_grid, grids(table)),
        ]
    )


def escape(text: str) -> str:
    """Text of others for LaTeX, on one line. Characters that pdfLaTeX's fonts lack become question marks."""
    return "".join(_SPECIAL.get(one, one if _is_latin(one) else "?") for one in " ".join(text.split()))


def _is_latin(character: str) -> bool:
    return ord(character) < 0x100 and character.isprintable()


def _grid(grid: Grid) -> str:
    lines = [[*map(escape, names), *(escape(shown) for _, shown in numbers)] for names, numbers in grid.lines]
    head = [escape(name) for name in (*grid.texts, *grid.numbers)]
    end = "" if grid.title.endswith("?") else "."
    return _environment(
        escape(grid.title) + end, head, lines, [escape(grid.note)] if grid.note else [], len(grid.texts)
    )


def _environment(
    caption: str, head: list[str], lines: list[list[str]], notes: list[str], texts: int = len(HEAD)
) -> str:
    rows = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{caption}}}",
            # Not wider than the text, and never enlarged.
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(head) - texts)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            *([rf"\par\smallskip\footnotesize {' '.join(notes)}"] if notes else []),
            r"\end{table}",
        ]
    )


def _cell(cell: Cell) -> str:
    text = escape(markdown.uncertain(cell))
    return (rf"\textbf{{{text}}}" if cell.best else text) + _sup(tuple(cell.marks))


def _small(text: str) -> str:
    return rf"{{\scriptsize {escape(text)}}}" if text else ""


def _sup(marks: tuple[str, ...]) -> str:
    return rf"\textsuperscript{{{','.join(marks)}}}" if marks else ""
