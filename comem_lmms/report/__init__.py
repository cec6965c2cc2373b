"""From lmms-eval's output files to tables: `read_rows`, `render`, `write_summary`."""

from comem_lmms.report.rows import Row as Row
from comem_lmms.report.rows import read_rows as read_rows
from comem_lmms.report.rows import retrieved_ids as retrieved_ids
from comem_lmms.report.rows import write_summary as write_summary
from comem_lmms.report.table import render as render
