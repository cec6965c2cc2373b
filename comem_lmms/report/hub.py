"""The main table in, the ``model-index`` of a model card out, which the Hugging Face Hub reads for results.

It has no notes, so what needs one is not in it.
"""

import logging
from collections.abc import Iterator, Sequence

from comem_lmms.report.columns import AVERAGE, Column
from comem_lmms.report.leaderboard import Cell, Table
from comem_lmms.report.lines import Line
from comem_lmms.report.provenance import extent, is_partial

log = logging.getLogger(__name__)

TASK = "visual-question-answering"  # by the Hub's list of tasks


def model_index(table: Table, splits: bool = False) -> str:
    """YAML for the head of a README.md, with an entry for each line; values are in percent.

    Results on a part of a benchmark, or on other documents than the rest, are left out with a warning.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index
    from huggingface_hub.utils import yaml_dump

    entries = []
    for line, cells in zip(table.lines, table.cells, strict=True):
        results = [
            EvalResult(
                task_type=TASK,
                dataset_type=_data(line, column),
                dataset_name=column.task,
                dataset_config=column.name,  # tasks of one data set would be taken for one
                metric_type="accuracy" if not column.lower_is_better else column.metric,
                metric_name=column.metric,
                metric_value=cell.value,
                metric_args=None if cell.stderr is None else {"stderr": cell.stderr},
            )
            for column, cell in _results(table, line, cells, splits)
        ]
        if results:
            entries += eval_results_to_model_index(_name(line), results)
    return yaml_dump({"model-index": entries}, sort_keys=False).rstrip("\n")


def _results(table: Table, line: Line, cells: Sequence[Cell], splits: bool) -> Iterator[tuple[Column, Cell]]:
    for column, cell in zip(table.columns, cells, strict=True):
        if column.task == AVERAGE or cell.value is None or not (splits or column.is_made_of):
            continue
        run = line.results[column.task].run
        # A column is marked where most lines are partial; a whole one is then in order.
        if is_partial(run) or (cell.other_documents and not column.marks):
            log.warning("not in the model-index: %s on %s, %s", _name(line), column.name, extent(run))
        else:
            yield column, cell


def _name(line: Line) -> str:
    return ", ".join([line.name, line.model, *([] if line.retrieval == "none" else [line.knowledge])])


def _data(line: Line, column: Column) -> str:
    """The Hub's id of the data set, or the task's name where it lies in a folder."""
    data = line.results[column.task].run.data
    return data if data.count("/") == 1 and not data.startswith((".", "/")) else column.task
