"""`splitcom watch`: a run in the terminal while it runs."""

from pathlib import Path
from typing import Annotated

import typer


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
    from time import sleep

    from splitcom.config import Config
    from splitcom.errors import RunError
    from splitcom.methods.admin import snapshot_of
    from splitcom.metrics.record import RunFolder
    from splitcom.report.dashboard import Dashboard
    from splitcom.report.live import clients_table, headline, progress_table
    from splitcom.report.terminal import Group, Live, RenderableType, Terminal, line

    folder = RunFolder(run)
    rounds = Config.from_toml(folder.config_toml(), str(run / "config.toml")).training.rounds
    terminal = Terminal()
    if web:
        with Dashboard(run, listen, "--listen", every_s=every) as page, suppress(KeyboardInterrupt):
            terminal.say(f"{page.url}   (Ctrl-C ends the page, not the run)")
            page.wait()
        return
    with Live(console=terminal, auto_refresh=False) as live:
        while True:
            is_running = (
                folder.is_locked
            )  # before the result is looked for, or its last moment could be missed
            finished = folder.result() is not None
            shown: list[RenderableType] = [progress_table(run, rounds)]
            with suppress(RunError):  # of a run in one process, or of another user's
                snapshot = snapshot_of(run)
                shown += [line(headline(snapshot)), clients_table(snapshot)]
            live.update(Group(*shown), refresh=True)
            if finished or not is_running:
                break
            sleep(every)
    terminal.print()
    if not finished:
        raise RunError(f"{run}: this run has not ended, and no process is at it; go on with it by --resume")
