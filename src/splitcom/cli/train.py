"""`splitcom train`: one run from a configuration file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitcom.cli.led import led, started
from splitcom.cli.output import spoken

if TYPE_CHECKING:
    from splitcom.config import Config
    from splitcom.report.terminal import Terminal

Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, such as training.rounds=3. Repeatable."
    ),
]

Trackers = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="NAME", help="tensorboard, mlflow or wandb. Repeatable."),
]

FromRound = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="With --resume: go back to round N, of those that are kept, and on from there.",
    ),
]

EngineKind = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="What it runs on: local, placed, sharded or ray (engine.kind)."),
]

Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="With --engine ray: the cluster (engine.ray.address).")
]


@led
@spoken
def train(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file; without one, the defaults are used.")
    ] = None,
    assignments: Assignments = None,
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/run"),
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run in --out.")] = False,
    from_round: FromRound = None,
    controller_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Start from what this run's controllers have learned."),
    ] = None,
    engine: EngineKind = None,
    address: Address = None,
    track: Trackers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what is trained on, and its memory, bytes and time.")
    ] = False,
    link: Annotated[
        str, typer.Option(metavar="UP/DOWN", help="Mbit/s of a client's link, for --dry-run.")
    ] = "10/40",
) -> dict[str, Any]:
    """Fine-tune a model split between clients and a server, all in this process or with clients in a Ray cluster.

    With --resume and no CONFIG, the configuration is that of the run folder. With engine.kind = "sharded" it
    starts engine.processes on this machine. With --dry-run, a part of the data is trained on for up to three rounds,
    and nothing is written.
    """

    from contextlib import ExitStack

    from splitcom.cli.ending import show_end
    from splitcom.cli.progress import ProgressBar
    from splitcom.methods.run import train as run
    from splitcom.methods.tracking import trackers
    from splitcom.report.terminal import Terminal

    terminal = Terminal()
    named = {"engine.kind": engine, "engine.ray.address": address, "control.start_from": controller_from}
    overrides = _overrides(assignments or [], named)
    settings = _settings(config, overrides, out if resume else None)
    if dry_run:
        return _foretell(settings, link, terminal)
    started(settings)
    with ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(settings.method, settings.training.rounds, terminal))
        watching = [stack.enter_context(tracker) for tracker in trackers(track or [], out, settings)]
        finished = run(settings, out, resume=resume, from_round=from_round, observers=[bar, *watching])
    show_end(terminal, finished)
    return finished.result


def _overrides(assignments: list[str], named: Mapping[str, str | Path | None]) -> dict[str, Any]:
    """Settings from --set, and those that have options of their own."""
    from splitcom.settings.tree import parse_assignment

    given = {key: str(value) for key, value in named.items() if value is not None}
    return dict(map(parse_assignment, assignments)) | given


def _settings(config: Path | None, overrides: Mapping[str, Any], resumed: Path | None) -> "Config":
    from splitcom.config import Config
    from splitcom.methods.settings import settings_of
    from splitcom.metrics.record import RunFolder

    if config is not None:
        return Config.load(config, overrides)
    if resumed is not None:
        return settings_of(RunFolder(resumed), overrides)
    return Config.from_toml("", "defaults", overrides)


def _foretell(settings: "Config", link: str, terminal: "Terminal") -> dict[str, Any]:
    from dataclasses import asdict

    from splitcom.methods.forecast import forecast
    from splitcom.methods.inspect import clients_of
    from splitcom.methods.run import configured
    from splitcom.report.forecast import forecast_table
    from splitcom.report.format import format_bytes
    from splitcom.report.inspection import clients_table, need_table
    from splitcom.transports.link import Link

    speed = Link.parse(link)
    settings = configured(settings)
    if settings.clients.given:
        terminal.print(clients_table(clients_of(settings)))
    with terminal.working("trying a few steps"):
        told = forecast(settings, speed)
    terminal.say(f"data: {told.data}\n")
    if told.client is not None:
        terminal.print(need_table(vars(told.client), "the client with the most samples"))
    if told.server_weights:
        terminal.say(f"server: {format_bytes(told.server_weights)} of weights, and what its steps take\n")
    terminal.print(forecast_table(told, link))
    return {
        "client": None if told.client is None else vars(told.client),
        "server_weights": told.server_weights,
        "rounds": [asdict(told.of_round(index)) for index in range(1 + told.num_rounds)],
    }
