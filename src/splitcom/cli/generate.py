"""`splitcom generate`: text from the model of a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from splitcom.amount import counted
from splitcom.cli.train import Assignments


def generate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to continue, in the form of the run's data.prompt; after chat, what a user says. Repeatable. "
            "Without, it is asked for; on a pipe, each line is one."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt, after chat.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="After chat: the text as it is, without the template.")
    ] = False,
    beams: Annotated[int, typer.Option(min=1, help="Beams of the search; 1 is greedy.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 64,
    assignments: Assignments = None,
) -> None:
    """Continue prompts with a finished run's model, cut as it was trained; shows what each token sends."""

    from splitcom.data import asked_by
    from splitcom.errors import ConfigError
    from splitcom.methods.evaluate import writer_of
    from splitcom.report.terminal import Terminal
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    prompts = prompt or _asked_for()
    changes = {"evaluation.beams": beams, "evaluation.max_new_tokens": max_new_tokens}
    changes |= dict(map(parse_assignment, assignments or []))
    with terminal.working("loading"):
        writer = writer_of(run, changes)
        is_chat = writer.config.data.format == "chat" and not raw
        if system is not None and not is_chat:
            raise ConfigError(
                "--system is for the chat template: leave it out, with --raw or if the run has learnt from columns"
            )
        texts = writer.write([asked_by(text, system) if is_chat else text for text in prompts])
    for given, text in zip(prompts, texts, strict=True):
        terminal.say(given, "dim")
        terminal.say(text or "(nothing)", "bold")
    for index, wire in enumerate(writer.wires):
        terminal.say(
            f"sent from {'front to body' if index == 0 else 'body to tail'}: {wire.bytes:,} bytes for "
            f"{counted(wire.positions, 'token')} ({wire.bytes / max(wire.positions, 1):.0f} each)"
        )


def _asked_for() -> list[str]:
    """Prompts that nobody has given as options: one from the terminal, or each line of a pipe."""
    import sys

    from splitcom.errors import ConfigError

    lines = [typer.prompt("Prompt")] if sys.stdin.isatty() else sys.stdin.read().splitlines()
    found = [line for line in lines if line.strip()]
    if not found:
        raise ConfigError(
            "splitcom generate: nothing to continue; give a text with --prompt, or one a line on a pipe"
        )
    return found
