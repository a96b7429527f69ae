"""`splitcom watch`: a run in the terminal while it runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from splitcom.metrics.record import RunFolder
    from splitcom.report.terminal import Terminal


def watch(
    run: Annotated[Path, typer.Argument(help="Run folder, of a run that may still be running.")],
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    web: Annotated[bool, typer.Option("--web", help="Serve a live page, until Ctrl-C.")] = False,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="With --web: where; port 0 is any that is free.")
    ] = "127.0.0.1:7480",
) -> None:
    """Show a run's rounds as they end: losses, thresholds, skipped samples, bytes per flow. Ends with the run.

    It also ends if the process that trains has died. If a server runs on this machine, it shows what each client is at.
    """
    from contextlib import suppress

    from splitcom.config import Config
    from splitcom.errors import RunError
    from splitcom.metrics.record import RunFolder
    from splitcom.report.dashboard import Dashboard
    from splitcom.report.live import round_lines
    from splitcom.report.terminal import Terminal

    folder = RunFolder(run)
    rounds = Config.from_toml(folder.config_toml(), str(run / "config.toml")).training.rounds
    terminal = Terminal()
    if web:
        with Dashboard(run, listen, "--listen", every_s=every) as page, suppress(KeyboardInterrupt):
            terminal.say(f"{page.url}   (Ctrl-C ends the page, not the run)")
            page.wait()
        return
    if terminal.is_terminal:
        _draw(folder, rounds, every, terminal)
    else:
        said = 0
        for _ in _looks(folder, every):
            lines = round_lines(run, rounds)
            for line in lines[said:]:
                terminal.say(line)
            said = len(lines)
    if folder.result() is None:
        raise RunError(f"{run}: this run has not ended, and no process is at it; go on with it by --resume")


def _draw(folder: "RunFolder", rounds: int, every: float, terminal: "Terminal") -> None:
    """Draw tables again and again, in the same place."""
    from contextlib import suppress

    from splitcom.errors import RunError
    from splitcom.methods.admin import snapshot_of
    from splitcom.report.live import clients_table, headline, progress_table
    from splitcom.report.terminal import Group, Live, RenderableType, line

    with Live(console=terminal, auto_refresh=False) as live:
        for _ in _looks(folder, every):
            shown: list[RenderableType] = [progress_table(folder.path, rounds)]
            with suppress(RunError):  # of a run in one process, or of another user's
                snapshot = snapshot_of(folder.path)
                shown += [line(headline(snapshot)), clients_table(snapshot)]
            live.update(Group(*shown), refresh=True)
    terminal.print()


def _looks(folder: "RunFolder", every: float) -> Iterator[None]:
    """Yield at once, then from time to time, and a last time when nobody trains any more."""
    from time import sleep

    while True:
        # asked before the caller looks, or it could miss what was written last
        is_running = folder.is_locked and folder.result() is None
        yield
        if not is_running:
            return
        sleep(every)
