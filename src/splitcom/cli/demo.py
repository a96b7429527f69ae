"""`splitcom demo`: the main job on what ships with the package."""

from pathlib import Path
from typing import Annotated

import typer

from splitcom.cli.output import spoken

# Small enough for three minutes on two cores, and enough for so small a model to learn something: all linear
# modules and a high rate.
_SMALL = {
    "data.samples": 150,
    "data.held_out_samples": 40,
    "training.rounds": 5,
    "training.batch_size": 6,
    "training.lr": 1e-2,
}


@spoken
def demo(out: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/demo")) -> None:
    """Fine-tune the bundled model with three clients in three ways, and compare cost and quality.

    Uncompressed, with a frozen front, and with SplitCom. Takes about three minutes on two cores; needs no network.
    """
    import shutil

    import torch

    from splitcom.cli.progress import run_comparison
    from splitcom.cli.samples import print_samples
    from splitcom.config import Config
    from splitcom.report import closing_table, write_report
    from splitcom.report.terminal import Terminal

    torch.set_num_threads(1)  # matrices this small gain nothing from a second one
    terminal = Terminal()
    config = Config().override(_SMALL)
    terminal.print(
        f"Three clients hold private texts about something the bundled model ({config.model.source}) has never "
        f"seen.\nEach runs the model's first {config.model.cut} blocks, a server the others; only what the cut "
        "needs travels.\n"
    )
    shutil.rmtree(out, ignore_errors=True)
    methods = ["splitlora", "frozen_front", "splitcom"]
    results = [run["result"] for run in run_comparison(config, out, methods, [0], terminal)["runs"]]
    terminal.print()
    print_samples(terminal, results[-1].get("samples", []))
    terminal.print(closing_table(results))
    terminal.say(
        f"report   {write_report(out)}\nadapter  {out / 'splitcom-seed0' / 'adapter'}  (loads with "
        "PeftModel.from_pretrained)"
    )
