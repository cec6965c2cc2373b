"""The main table in, the text of one of the formats out."""

from comem_lmms.report import export, hub, latex, markdown, page
from comem_lmms.report.leaderboard import Table

FORMATS = ("md", "tex", "csv", "html", "json", "hf")


def write(table: Table, kind: str, splits: bool = False, verbose: bool = False) -> str:
    """The table as one of `FORMATS`.

    Args:
        kind: JSON and CSV hold all there is.
        splits: with all parts of benchmarks, also those that a result is not made of.
        verbose: in Markdown with what every line was made of; HTML has it in any case.
    """
    if kind == "md":
        return markdown.markdown(table, splits, verbose)
    if kind == "tex":
        return latex.latex(table, splits)
    if kind == "html":
        return page.html(table, splits)
    if kind == "hf":
        return hub.model_index(table, splits)
    return export.as_csv(table) if kind == "csv" else export.as_json(table)
