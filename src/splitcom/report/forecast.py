"""The table of what a run's rounds will send and take; knows no trial."""

from collections.abc import Sequence
from typing import Protocol

from splitcom.report.format import format_bytes, format_seconds
from splitcom.report.terminal import Table


class _Round(Protocol):
    @property
    def up_bytes(self) -> float: ...
    @property
    def down_bytes(self) -> float: ...
    @property
    def computing_s(self) -> float: ...
    @property
    def link_s(self) -> float: ...


class _Forecast(Protocol):
    @property
    def rounds(self) -> Sequence[_Round]: ...
    @property
    def num_rounds(self) -> int: ...
    @property
    def steps(self) -> int: ...
    def of_round(self, index: int) -> _Round: ...


def forecast_table(forecast: _Forecast, link: str) -> Table:
    """A row for each round that was tried, the last for all that are like it, and one for the run."""
    table = Table(title=f"over {link} Mbit/s, from a trial of {forecast.steps} steps on this machine")
    for index, column in enumerate(("round", "up", "down", "on the link", "computing", "together")):
        table.add_column(column, justify="right" if index else "left")
    tried, every = forecast.rounds, [forecast.of_round(index) for index in range(1 + forecast.num_rounds)]
    _add(table, "before", every[:1])
    for number, one in enumerate(tried, 1):
        goes_on = number == len(tried) < forecast.num_rounds
        _add(table, f"{number} and later, each" if goes_on else str(number), [one])
    _add(table, "the run", every, style="bold")
    return table


def _add(table: Table, name: str, rounds: Sequence[_Round], style: str | None = None) -> None:
    link_s, computing_s = sum(one.link_s for one in rounds), sum(one.computing_s for one in rounds)
    table.add_row(
        name,
        format_bytes(sum(one.up_bytes for one in rounds)),
        format_bytes(sum(one.down_bytes for one in rounds)),
        *map(format_seconds, (link_s, computing_s, link_s + computing_s)),
        style=style,
    )
