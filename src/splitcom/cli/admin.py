"""`splitcom admin`: what whoever runs a server may ask of it while it runs."""

from pathlib import Path
from typing import Annotated

import typer

from splitcom.report.terminal import Terminal

Run = Annotated[Path, typer.Argument(help="The run folder that the server was given as --out.")]
Client = Annotated[str, typer.Argument(help="The client's name.")]

admin = typer.Typer(
    help="See who a running server waits for; drop or replace a client. For the user that the server runs as.",
    no_args_is_help=True,
)


@admin.command("list")
def list_(run: Run) -> None:
    """Show what each client is doing, since when it is waited for, and its traffic."""
    from splitcom.methods.admin import snapshot_of
    from splitcom.report.live import clients_table, headline

    snapshot = snapshot_of(run)
    terminal = Terminal()
    terminal.say(headline(snapshot))
    terminal.print(clients_table(snapshot))
    terminal.say(snapshot.waiting() or "waiting for nobody")


@admin.command("drop")
def drop(
    run: Run,
    client: Client,
    reason: Annotated[str, typer.Option(help="What the client is told, and the log says.")] = (
        "whoever runs the server has dropped it"
    ),
) -> None:
    """Go on without a client, for good: it is refused when it comes again. Its seat is free."""
    _ask(run, ask="drop", client=client, reason=reason)


@admin.command("replace")
def replace(
    run: Run,
    client: Client,
    by: Annotated[str, typer.Argument(help="Who takes its place: the name in another certificate.")],
) -> None:
    """Drop a client and give its seat to another one, even if federation.names does not name it."""
    _ask(run, ask="replace", client=client, by=by)


@admin.command("admit")
def admit(run: Run, client: Client) -> None:
    """Let a client take part again that was dropped, replaced, or excluded for its restarts."""
    _ask(run, ask="admit", client=client)


@admin.command("drain")
def drain(run: Run) -> None:
    """End the server when the next round is saved; `serve --resume` goes on, and clients wait for it."""
    _ask(run, ask="drain")


def _ask(run: Path, **question: str) -> None:
    from splitcom.methods.admin import ask

    Terminal().say(ask(run, **question)["said"])
