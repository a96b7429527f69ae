"""The table of what a run's rounds will send and take; knows no trial."""

from collections.abc import Sequence
from typing import Protocol

from splitcom.amount import counted
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
    def num_tried(self) -> int: ...
    @property
    def num_rounds(self) -> int: ...
    @property
    def steps(self) -> int: ...
    def of_round(self, index: int) -> _Round: ...


def forecast_table(forecast: _Forecast, link: str) -> Table:
    """A row for what comes before training, for each round up to one after those that were tried, the last, and all."""
    table = Table(
        title=f"over {link} Mbit/s, from a trial of {counted(forecast.steps, 'step')} on this machine"
    )
    for index, column in enumerate(("round", "up", "down", "on the link", "computing", "together")):
        table.add_column(column, justify="right" if index else "left")
    last, tried = forecast.num_rounds, forecast.num_tried
    every = [forecast.of_round(index) for index in range(1 + last)]
    _add(table, "before", every[:1])
    for index in range(1, min(tried, last - 1) + 1):
        _add(table, f"{index}, and others" if index == tried < last - 1 else str(index), [every[index]])
    _add(table, f"{last}, the last", every[-1:])
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
