"""`splitcom serve`: one run's server over a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitcom.cli.led import led, started
from splitcom.cli.log import DashboardAddress, LogFormat, MetricsAddress
from splitcom.cli.output import spoken
from splitcom.cli.train import Assignments, FromRound, Trackers

if TYPE_CHECKING:
    from splitcom.config import Config


@led
@spoken
def serve(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where clients reach this server.")],
    authority: Annotated[Path, typer.Option(help="Folder made by `splitcom certs init`.")],
    config: Annotated[
        Path | None, typer.Argument(help="TOML file; without one, the defaults are used.")
    ] = None,
    assignments: Assignments = None,
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/run"),
    resume: Annotated[
        bool, typer.Option(help="Continue the run in --out, or begin it if there is none.")
    ] = False,
    from_round: FromRound = None,
    metrics: MetricsAddress = None,
    dashboard: DashboardAddress = None,
    log_format: LogFormat = "text",
    track: Trackers = None,
    machines: Annotated[
        int, typer.Option(min=1, help="How many run the body (engine.kind = 'sharded').")
    ] = 1,
    machine: Annotated[int, typer.Option(min=0, help="Which of them this one is.")] = 0,
    meet: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where machine 0 is met by the others.")
    ] = None,
) -> dict[str, Any]:
    """Wait for the clients that the configuration asks for, train with them, and write the run folder.

    With --resume and no CONFIG, the configuration is that of the run folder. With engine.kind = "sharded" it
    starts engine.processes on this machine. On several machines, give the command on each; machine 0 listens.
    """
    from contextlib import ExitStack

    from splitcom.cli.ending import show_end
    from splitcom.cli.status import StatusPage, log_to
    from splitcom.methods.admin import Drained
    from splitcom.methods.monitor import monitor_pages
    from splitcom.methods.serve import ServeOptions
    from splitcom.methods.serve import serve as run
    from splitcom.methods.tracking import trackers
    from splitcom.report.dashboard import Dashboard
    from splitcom.report.terminal import Terminal

    terminal = Terminal()
    resume = resume and (out / "config.toml").exists()
    settings = _settings(config or (out / "config.toml" if resume else None), assignments or [])
    started(settings, count=machines, own=machine, meet=meet)
    log_to(terminal, log_format)
    try:
        with ExitStack() as stack:
            page = stack.enter_context(
                StatusPage(settings.training.rounds, terminal, is_json=log_format == "json")
            )
            if metrics is not None:
                stack.enter_context(monitor_pages(page.snapshot, metrics))
            if dashboard is not None:
                stack.enter_context(Dashboard(out, dashboard, "--dashboard", page.snapshot))
            watching = [stack.enter_context(tracker) for tracker in trackers(track or [], out, settings)]
            options = ServeOptions(listen, authority, out, resume, from_round=from_round)
            finished = run(settings, options, [page, *watching], page.watch)
    except Drained as drained:
        terminal.say(str(drained))
        return {"drained": str(drained)}
    show_end(terminal, finished)
    return finished.result


def _settings(path: Path | None, assignments: Sequence[str]) -> "Config":
    from splitcom.config import Config
    from splitcom.settings.tree import parse_assignment

    overrides = dict(map(parse_assignment, assignments))
    return Config.from_toml("", "defaults", overrides) if path is None else Config.load(path, overrides)
