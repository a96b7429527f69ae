"""`splitcom evaluate`: loss and text scores of a finished run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from splitcom.amount import counted
from splitcom.cli.output import spoken
from splitcom.cli.train import Assignments
from splitcom.errors import MissingExtraError


@spoken
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    prompts: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Held-out prompts whose continuations are scored; 0 for none.",
            show_default="100 with the extra 'eval', else 0",
        ),
    ] = None,
    beams: Annotated[int | None, typer.Option(min=1, help="Beams of the search; 1 is greedy.")] = None,
    assignments: Assignments = None,
) -> dict[str, Any]:
    """Evaluate a finished run on its held-out data: loss, perplexity, and scores of its text, or accuracy.

    BLEU, NIST, ROUGE-L and chrF of text need the extra 'eval'; without it, this gives the others. Writes
    evaluation.json into the run folder.
    """
    from splitcom.methods.evaluate import EVALUATION, evaluate_run
    from splitcom.report.terminal import Table, Terminal, line
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    prompts = _default_prompts() if prompts is None else prompts
    options = {"evaluation.text_samples": prompts, "evaluation.beams": beams}
    changes = {key: value for key, value in options.items() if value is not None}
    changes |= dict(map(parse_assignment, assignments or []))
    with terminal.working("loading") as status:
        found = evaluate_run(
            run,
            changes,
            lambda done, total: status.update(line(f"continued {done} of {counted(total, 'prompt')}")),
        )
    table = Table(grid=True)
    table.add_column()
    table.add_column(justify="right")
    scores = {key: value for key, value in found.items() if key not in ("text", "confusion")}
    for name, value in (scores | found.get("text", {})).items():
        shown = ", ".join(f"{part:.1f}" for part in value) if isinstance(value, list) else value
        table.add_row(name.replace("_", " "), f"{shown:.3f}" if isinstance(shown, float) else str(shown))
    terminal.print(table)
    terminal.say(f"written to {run / EVALUATION}")
    return found


def _default_prompts() -> int:
    """How many prompts are scored if none are asked for: none where nothing can score them."""
    from splitcom.metrics.quality import check_scorers
    from splitcom.report.terminal import Terminal

    try:
        check_scorers()
    except MissingExtraError as error:
        Terminal(stderr=True).say(f"warning: {error}", "yellow")
        return 0
    return 100
