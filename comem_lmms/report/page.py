"""The main table in, one HTML page out that needs nothing else: to sort and filter, dark or light, by mouse or keys.

Everything that comes from results is escaped, and the page's policy lets no script run but its own, by its hash.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from pathlib import Path

from comem_lmms.report import markdown
from comem_lmms.report.grids import HEAD, Grid, grids, labels
from comem_lmms.report.leaderboard import Cell, Table
from comem_lmms.report.markdown import has_paper
from comem_lmms.report.provenance import older_runs, provenance

FOLDER = Path(__file__).parent
SHARED_STYLE = (FOLDER / "base.css").read_text(encoding="utf-8").rstrip()  # of all our pages
SHARED_SCRIPT = (FOLDER / "theme.js").read_text(encoding="utf-8")
PARTS = '<label><input type="checkbox" id="parts"> all parts of benchmarks</label>'


def html(table: Table, splits: bool = False) -> str:
    """The page; with ``splits`` all parts of benchmarks are shown from the start."""
    script = SHARED_SCRIPT + (FOLDER / "page.js").read_text(encoding="utf-8")
    has_parts = any(not column.is_made_of for column in table.columns)
    parts = PARTS.replace(' id="parts"', ' id="parts" checked') if splits else PARTS
    parts_of_page = {
        "hash": policy_hash(script),
        "style": SHARED_STYLE,
        "parts": parts if has_parts else "",
        "content": "\n".join([_results(table), _notes(table), *map(_grid, grids(table)), _provenance(table)]),
        "script": script,
    }
    return filled((FOLDER / "page.html").read_text(encoding="utf-8"), parts_of_page)


def filled(page: str, parts: Mapping[str, str]) -> str:
    """A page with its parts in the places of their ``{{names}}``; what looks like a name within a part stays."""
    before, *rest = page.split("{{")
    pieces = [piece.split("}}", 1) for piece in rest]
    return before + "".join(parts[name] + text for name, text in pieces)


def policy_hash(code: str) -> str:
    """What a page's Content-Security-Policy calls a script or style within it, behind ``sha256-``."""
    return b64encode(sha256(code.encode()).digest()).decode()


def _results(table: Table) -> str:
    head = [_head(name) for name in HEAD]
    for place, column in enumerate(table.columns):
        part = "" if column.is_made_of else "part"
        head.append(_head(column.name, _marks(column.marks), f"number {part}".strip()))
        head += [_head("paper", "", f"number {part}".strip())] if has_paper(table, place) else []
    rows = []
    for names, cells in zip(labels(table), table.cells, strict=True):
        row = []
        for place, (column, cell) in enumerate(zip(table.columns, cells, strict=True)):
            part = "" if column.is_made_of else ' class="part"'
            row.append(_cell(cell, part))
            row += [_td(cell.paper, escape(markdown.stated(cell)), part)] if has_paper(table, place) else []
        rows.append(_row(names, row))
    return _table("Results", head, rows)


def _grid(grid: Grid) -> str:
    head = [*map(_head, grid.texts), *(_head(name, "", "number") for name in grid.numbers)]
    rows = [_row(names, [_td(value, escape(shown)) for value, shown in numbers]) for names, numbers in grid.lines]
    note = f"\n<p>{escape(grid.note)}</p>" if grid.note else ""
    return f"<h2>{escape(grid.title)}</h2>\n{_table(escape(grid.title), head, rows)}{note}"


def _table(name: str, head: Sequence[str], rows: Sequence[str]) -> str:
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table>\n'
        f"<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _head(name: str, marks: str = "", kind: str = "text") -> str:
    return f'<th scope="col" class="{kind}"><button type="button">{escape(name)}</button>{marks}</th>'


def _row(names: Sequence[str], cells: Sequence[str]) -> str:
    first, *others = (escape(name) for name in names)
    named = [f'<th scope="row" data-value="{first}">{first}</th>']
    named += [f'<td class="text" data-value="{other}">{other}</td>' for other in others]
    return f'<tr data-name="{escape(" ".join(names))}">{"".join([*named, *cells])}</tr>'


def _cell(cell: Cell, attributes: str) -> str:
    text = escape(markdown.uncertain(cell))
    below = f"<small>{escape(markdown.difference(cell))}</small>" if cell.difference else ""
    return _td(cell.value, (f"<strong>{text}</strong>" if cell.best else text) + _marks(cell.marks) + below, attributes)


def _td(value: float | None, content: str, attributes: str = "") -> str:
    return f'<td{attributes} data-value="{"" if value is None else value}">{content}</td>'


def _marks(marks: Sequence[str]) -> str:
    links = ",".join(f'<a href="#note-{mark}">{mark}</a>' for mark in marks)
    return f"<sup>{links}</sup>" if marks else ""


def _notes(table: Table) -> str:
    notes = [f'<li id="note-{mark}"><sup>{mark}</sup> {escape(note)}</li>' for mark, note in table.notes.items()]
    told = [markdown.caption(table), *table.remarks]
    return "\n".join(["<ul>", *(f"<li>{escape(remark)}</li>" for remark in told), *notes, "</ul>"])


def _provenance(table: Table) -> str:
    parts = ["<h2>What the lines were made of</h2>"]
    for line, names in zip(table.lines, labels(table), strict=True):
        facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in provenance(line))
        parts.append(f"<details><summary>{escape(', '.join(names))}</summary><dl>{facts}</dl></details>")
    if table.older:
        runs = "".join(f"<li>{escape(text)}</li>" for text in older_runs(table.older))
        parts.append(f"<details><summary>Replaced by newer runs</summary><ul>{runs}</ul></details>")
    return "\n".join(parts)
