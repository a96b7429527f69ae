"""`splitcom audit`: what the server could tell of your text."""

from pathlib import Path
from typing import Annotated, Any

import typer

from splitcom.cli.output import spoken
from splitcom.cli.train import Assignments


@spoken
def audit(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run folder; or a settings file, to attack the base model's front before training."
        ),
    ],
    samples: Annotated[int, typer.Option(min=1, help="Samples to attack.")] = 8,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each, from its beginning.")] = 48,
    candidates: Annotated[
        int,
        typer.Option(
            min=1,
            help="Tokens that the dictionary attack tries at each place, and 16 times as many if none of them fits.",
        ),
    ] = 32,
    public: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text to learn from; without, generated text.")
    ] = None,
    beam: Annotated[int, typer.Option(min=1, help="Texts that the dictionary attack follows at a time.")] = 1,
    visits: Annotated[
        int | None,
        typer.Option(min=1, help="Visits of a sample whose noise is averaged; without, all of the run."),
    ] = None,
    updates: Annotated[
        bool,
        typer.Option(
            "--updates", help="Train a round anew, and attack each client's adapter and their mean."
        ),
    ] = False,
    assignments: Assignments = None,
) -> list[dict[str, Any]]:
    """Attack a run of yours as its server could, and show how much of the text comes back.

    Writes audit.json into a run folder.
    """

    from dataclasses import asdict

    from splitcom.methods.audit import audit as attack
    from splitcom.methods.crossing import AuditOptions
    from splitcom.report.format import format_percent
    from splitcom.report.terminal import Table, Terminal, line
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    with terminal.working("loading") as status:
        found = attack(
            run,
            AuditOptions(samples, tokens, candidates, public, beam, visits, updates),
            dict(map(parse_assignment, assignments or [])),
            lambda text: status.update(line(text)),
        )
    table = Table(title="recovered, of all tokens at their places")
    for column in (
        "what the server gets",
        "bits",
        "error",
        "attack",
        "tokens",
        "top 5",
        "numbers",
        "names",
        "whole samples",
        "ROUGE-L",
    ):
        table.add_column(column, justify="left" if column in ("what the server gets", "attack") else "right")
    for finding in found:
        if (one := finding.score) is None:
            continue
        shares = [one.tokens, one.top5, one.numbers, one.names, one.whole, one.rouge_l]
        cells = ["–" if share is None else format_percent(share) for share in shares]
        bits = "" if finding.bits is None else f"{finding.bits:.2f}"
        table.add_row(finding.codec or "nothing", bits, f"{finding.error:.3f}", finding.attack, *cells)
    terminal.print(table)
    beside = Table(title="told beside the text")
    for column in ("by", "what", "told", "chance"):
        beside.add_column(column, justify="left" if column in ("by", "what") else "right")
    for finding in found:
        if finding.share is not None and finding.chance is not None:
            told, chance = format_percent(finding.share), format_percent(finding.chance)
            beside.add_row(finding.codec, finding.attack, told, chance)
    terminal.print(beside)
    return [asdict(finding) for finding in found]
