"""Generated sentences in the terminal."""

from collections.abc import Iterable, Mapping

from splitcom.report.terminal import Table, Terminal, line


def print_samples(terminal: Terminal, samples: Iterable[Mapping[str, str]]) -> None:
    """Print each prompt with its reference and what the model wrote before and after training."""
    for sample in samples:
        table = Table(grid=True)
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for key in ("prompt", "reference", "before", "after"):
            table.add_row(key, line(sample[key] or "(nothing)", "bold" if key == "after" else ""))
        terminal.print(table, "")
