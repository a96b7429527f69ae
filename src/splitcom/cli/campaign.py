"""`splitcom campaign`: many comparisons with one command."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from splitcom.amount import counted
from splitcom.cli.output import spoken
from splitcom.cli.train import Assignments


@spoken
def campaign(
    configs: Annotated[list[Path], typer.Argument(help="TOML files, one for each comparison.")],
    out: Annotated[Path, typer.Option(help="Folder for the comparisons and their runs.")] = Path(
        "runs/campaign"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each on one core.")] = 2,
    markdown: Annotated[
        Path | None, typer.Option(help="Write all tables, with a plot for each comparison, to this file.")
    ] = None,
    assignments: Assignments = None,
) -> None:
    """Run several comparisons, some runs at a time; those that comparisons share are run once.

    What has ended is not run again, and what was interrupted is continued: give the same command again.
    """
    from splitcom.config import Config
    from splitcom.errors import ConfigError
    from splitcom.methods.campaign import Standing, run_campaign
    from splitcom.report import write_markdown, write_report
    from splitcom.report.terminal import Terminal, progress
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    overrides = dict(map(parse_assignment, assignments or []))
    trees = {path.stem: Config.load(path, overrides) for path in configs}
    if len(trees) < len(configs):
        raise ConfigError("two of the files have the same name, which their comparisons go by; rename one")
    bar = progress(terminal)
    task = bar.add_task("campaign", total=None, status="loading")
    said = ""

    def show(standing: Standing) -> None:
        nonlocal said
        status = f"{standing.runs_done} of {counted(standing.runs, 'run')}; now {', '.join(standing.running) or 'none'}"
        bar.update(task, completed=standing.rounds_done, total=standing.rounds, status=status)
        if not terminal.is_terminal and status != said:
            terminal.say(status)
        said = status

    with bar if terminal.is_terminal else nullcontext():
        folders = run_campaign(trees, out, jobs, show)
    for folder in folders:
        terminal.say(write_report(folder))
    if markdown is not None:
        terminal.say(write_markdown(folders, markdown))
