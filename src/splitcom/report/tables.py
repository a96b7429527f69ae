"""The columns that compare methods, and the table that closes a run in the terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from splitcom.flows import AT_CUT
from splitcom.report.folder import Result, as_result
from splitcom.report.format import decimals, format_bytes, format_percent, format_seconds
from splitcom.report.summary import BASELINE, Measure, Row, group, summarise
from splitcom.report.terminal import Table

NONE = "–"


def with_spread(
    measure: Measure | None, places: int | None = None, scale: float = 1.0, sign: str = "-"
) -> str:
    """Write `mean ± spread`, both times `scale`, with `places` decimals or three significant digits.

    `sign` is "+" where positive means are to show theirs.
    """
    if measure is None:
        return NONE
    mean = measure.mean * scale
    shown = decimals(mean) if places is None else places
    spread = "" if measure.spread is None else f" ± {measure.spread * scale:.{shown}f}"
    return f"{mean:{sign}.{shown}f}{spread}"


def of_mean(measure: Measure | None, form: Callable[[float], str]) -> str:
    """Write the mean alone."""
    return NONE if measure is None else form(measure.mean)


# What people read; `results.py` has the finer columns of the documentation.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "method": lambda row: row.label,
    "seeds": lambda row: str(len(row.seeds)),
    "held-out loss": lambda row: with_spread(row.loss, 3),
    "perplexity": lambda row: f"{row.perplexity.mean:.2f}",
    "bleu": lambda row: with_spread(row.bleu, 1),
    "accuracy, %": lambda row: with_spread(row.accuracy, 1, scale=100),
    "up": lambda row: of_mean(row.up, format_bytes),
    "down": lambda row: of_mean(row.down, format_bytes),
    "total": lambda row: of_mean(row.total, format_bytes),
    "share": lambda row: of_mean(row.share, format_percent),
    "saving": lambda row: of_mean(row.saving, format_percent),
    "link time": lambda row: of_mean(row.virtual, format_seconds),
    "wall time": lambda row: of_mean(row.wall, format_seconds),
}


def closing_table(results: Sequence[Result | Mapping[str, object]], title: str | None = None) -> Table:
    """Build the table that ends a run, demo or comparison: a row per method, averaged over its seeds.

    Takes results as read by `load_run` or as the dictionary of `result.json`; raises RunError if a
    field is missing or wrong.
    """
    checked = [as_result(result) for result in results]
    names = ["method", "up", "down", "total", "share", "held-out loss", *quality_columns(checked)]
    compared = any(result.method == BASELINE for result in checked)
    before = ", ".join(dict.fromkeys(f"{result.eval.initial_loss:.3f}" for result in checked))
    table = Table(
        title=title,
        caption="share: of "
        + ("splitlora's total" if compared else "the same run uncompressed (fp16)")
        + f"; held-out loss before training: {before}",
    )
    for name in names:
        # Only the method may wrap: the numbers then fit beside it on 80 columns.
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name != "method")
    for cells in table_cells(checked, names):
        table.add_row(*cells)
    return table


def flow_table(results: Sequence[Result | Mapping[str, object]]) -> Table:
    """Build the table of what crossed the cuts: a row per method, mean bytes of each flow over its seeds."""
    table = Table()
    names, rows = flow_cells([as_result(result) for result in results], AT_CUT)
    for name in names:
        # Flow names wrap at their space, so that all of them fit beside the method on 80 columns.
        table.add_column(
            name.replace("_", " "), justify="left" if name == "method" else "right", max_width=18
        )
    for cells in rows:
        table.add_row(*cells)
    return table


def flow_cells(results: Sequence[Result], flows: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Write mean bytes per method of those of the flows that were sent: the columns' names, and a list per method."""
    groups = group(results)
    sent = [flow for flow in flows if any(result.bytes.get(flow) for result in results)]
    cells = [
        [label, *(format_bytes(fmean(one.bytes.get(flow, 0) for one in members)) for flow in sent)]
        for label, members in groups.items()
    ]
    return ["method", *sent], cells


def quality_columns(results: Sequence[Result]) -> list[str]:
    """Name the columns that tell quality beside the loss: accuracy of classes, perplexity and scores of text."""
    if any(result.eval.accuracy is not None for result in results):
        return ["accuracy, %"]
    return ["perplexity", *["bleu"] * any(result.text is not None for result in results)]


def table_cells(results: Iterable[Result], names: Sequence[str]) -> list[list[str]]:
    """Write the named columns, a list per method."""
    return [[COLUMNS[name](row) for name in names] for row in summarise(list(results))]
