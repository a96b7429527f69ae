"""`splitcom compare`: several methods over several seeds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from splitcom.cli.output import spoken
from splitcom.cli.train import Assignments


@spoken
def compare(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file; without one, the defaults are used.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Comma-separated methods; without, the variants in the configuration.")
    ] = "",
    seeds: Annotated[
        str, typer.Option(help="Comma-separated seeds; without, those in the configuration.")
    ] = "",
    assignments: Assignments = None,
    out: Annotated[Path, typer.Option(help="Folder for the comparison.")] = Path("runs/comparison"),
) -> dict[str, Any]:
    """Run several methods on the same data and show what each cost and how good it became.

    Runs that have ended are not run again, and an interrupted one is continued: give the same command again.
    """

    from splitcom.cli.progress import run_comparison
    from splitcom.config import Config
    from splitcom.errors import ConfigError
    from splitcom.report import closing_table, flow_table, write_report
    from splitcom.report.terminal import Terminal
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    overrides = dict(map(parse_assignment, assignments or []))
    settings = (
        Config.from_toml("", "defaults", overrides) if config is None else Config.load(config, overrides)
    )
    try:
        chosen_seeds = [int(seed) for seed in seeds.split(",") if seed.strip()]
    except ValueError as error:
        raise ConfigError(f"--seeds {seeds}: expected whole numbers, such as 0,1,2") from error
    chosen_methods = [method.strip() for method in methods.split(",") if method.strip()]
    comparison = run_comparison(settings, out, chosen_methods, chosen_seeds, terminal)
    results = [run["result"] for run in comparison["runs"]]
    terminal.print(closing_table(results))
    terminal.print(flow_table(results))
    terminal.say(f"report  {write_report(out)}")
    return comparison
