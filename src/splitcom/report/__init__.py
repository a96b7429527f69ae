"""What a user sees of a finished run or comparison: HTML report, terminal table, Markdown, plots.

Reads run folders and never trains. Importing it loads neither torch nor matplotlib.
"""

from splitcom.report.folder import Comparison, Result, Run, load_comparison, load_run
from splitcom.report.format import format_bytes, format_percent, format_seconds
from splitcom.report.html import write_report
from splitcom.report.results import results_markdown, save_plot, write_markdown
from splitcom.report.tables import closing_table, flow_table

__all__ = [
    "Comparison",
    "Result",
    "Run",
    "closing_table",
    "flow_table",
    "format_bytes",
    "format_percent",
    "format_seconds",
    "load_comparison",
    "load_run",
    "results_markdown",
    "save_plot",
    "write_markdown",
    "write_report",
]
