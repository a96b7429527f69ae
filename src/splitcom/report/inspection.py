"""Tables of what a cut gives: parameters and memory of each part, bytes of a step."""

from collections.abc import Mapping
from typing import Protocol

from splitcom.report.format import format_bytes, format_seconds
from splitcom.report.terminal import Table


class _Part(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def blocks(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def lora_parameters(self) -> int: ...


def part_table(parts: tuple[_Part, ...], title: str) -> Table:
    """A row per part."""
    table = _table(title, "part", "blocks", "parameters", "weights", "LoRA parameters")
    for part in parts:
        table.add_row(
            part.name,
            str(part.blocks),
            f"{part.parameters:,}",
            format_bytes(part.weight_bytes),
            f"{part.lora_parameters:,}",
        )
    return table


def flow_table(
    flows: Mapping[str, int], evaluation: int, title: str, seconds: Mapping[str, float] | None = None
) -> Table:
    """A row per flow, uncompressed, with the sum; below it what as many held-out samples cost in an evaluation.

    With the `seconds` of flows on a link, if they are given.
    """
    table = _table(title, "flow", "bytes of a step", *([] if seconds is None else ["seconds on the link"]))
    for flow, size in flows.items():
        table.add_row(flow, format_bytes(size), *([] if seconds is None else [format_seconds(seconds[flow])]))
    taken = [] if seconds is None else [format_seconds(sum(seconds.values()))]
    table.add_row("together", format_bytes(sum(flows.values())), *taken, style="bold")
    table.add_row("evaluation of as many held-out samples", format_bytes(evaluation), *[""] * len(taken))
    return table


def need_table(need: Mapping[str, int], title: str) -> Table:
    """A row for each thing that takes memory, with the sum."""
    table = _table(title, "memory", "at most")
    for what, size in need.items():
        table.add_row(what, format_bytes(size))
    table.add_row("together", format_bytes(sum(need.values())), style="bold")
    return table


def clients_table(rows: Mapping[str, Mapping[str, object]]) -> Table:
    """A row for each client: what it trains with."""
    columns = next(iter(rows.values()))
    table = _table("clients", "client", *columns)
    for name, values in rows.items():
        table.add_row(name, *map(str, values.values()))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table
