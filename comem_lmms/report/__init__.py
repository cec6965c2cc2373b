"""From lmms-eval's output files to tables.

One task: `read_rows`, `render`, `write_summary`. Several: `build` makes the main table, `write` puts it in a format.
"""

from comem_lmms.report.formats import FORMATS as FORMATS
from comem_lmms.report.formats import write as write
from comem_lmms.report.leaderboard import Table as Table
from comem_lmms.report.leaderboard import build as build
from comem_lmms.report.paper import load_paper as load_paper
from comem_lmms.report.reading import task_names as task_names
from comem_lmms.report.rows import Row as Row
from comem_lmms.report.rows import read_rows as read_rows
from comem_lmms.report.rows import retrieved_ids as retrieved_ids
from comem_lmms.report.rows import write_summary as write_summary
from comem_lmms.report.table import render as render
