"""`splitcom codecs`, `controllers` and `aggregators`: the words that settings are written in."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitcom.language import Registry


def codecs() -> None:
    """List the stages that codecs are made of, with their arguments."""

    from splitcom.codecs.element import ELEMENTS
    from splitcom.settings.presets import PRESETS

    _show(
        ELEMENTS,
        "temporal > delta | projection > svd | topk | randtopk > a number format > zstd\n"
        "predict > klt > uniform > range",
        f'in a settings file: flows.activation_up.codec = "…"; preset = "…" sets all flows: {", ".join(PRESETS)}',
    )


def controllers() -> None:
    """List what can set a codec's threshold or step for each round, with arguments."""

    from splitcom.control.controller import CONTROLLERS

    _show(CONTROLLERS, "", 'in a settings file: flows.activation_up.controller = "…"')


def aggregators() -> None:
    """List the ways in which the clients' adapters become one, with their arguments."""

    from splitcom.aggregation import AGGREGATORS

    _show(AGGREGATORS, "", 'in a settings file: federation.aggregator = "…"')


def _show(registry: "Registry[Any]", order: str, use: str) -> None:
    from splitcom.language import words
    from splitcom.report.terminal import Terminal, line

    terminal = Terminal()
    if order:
        terminal.print(line("order of the stages: ", "bold") + line(order.replace("\n", "\n" + " " * 21)))
    for word in words(registry):
        terminal.print(line(f"\n{word.signature}", "bold"))
        terminal.print(f"  {word.summary}")
        for name, meaning in word.arguments.items():
            terminal.print(f"  {name}: {meaning}")
        terminal.print(line(f"  such as {word.example}", "dim"))
    terminal.print(f"\n{use}")
