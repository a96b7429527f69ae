"""Generated sentences in the terminal."""

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_samples(console: Console, samples: Iterable[Mapping[str, str]]) -> None:
    """Print each prompt with its reference and what the model wrote before and after training."""
    for sample in samples:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for key in ("prompt", "reference", "before", "after"):
            table.add_row(key, Text(sample[key] or "(nothing)", style="bold" if key == "after" else ""))
        console.print(table, "")
