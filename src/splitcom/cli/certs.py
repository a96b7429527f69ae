"""`splitcom certs`: the authority that says who may take part."""

from pathlib import Path
from typing import Annotated

import typer

from splitcom.report.terminal import Terminal

Folder = Annotated[Path, typer.Argument(help="The authority's folder.")]
Days = Annotated[int, typer.Option(help="Days until the certificate expires.")]
Client = Annotated[str, typer.Option(help="The client's name.")]

certs = typer.Typer(
    help="Make an authority, and issue and revoke the certificates of server and clients.",
    no_args_is_help=True,
)


@certs.command("init")
def init(
    folder: Folder,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address by which clients reach the server. Repeatable."),
    ] = None,
    days: Days = 365,
) -> None:
    """Make an authority and its server's certificate; in a folder that has one, only what is missing."""
    from splitcom.transports.tls import create_authority, issue_server

    if not (folder / "authority-key.pem").exists():
        create_authority(folder)
        Terminal().say(
            f"authority  {folder / 'authority.pem'}; keep {folder / 'authority-key.pem'} to yourself"
        )
    Terminal().say(f"server     {issue_server(folder, host or ['localhost', '127.0.0.1'], days)}")


@certs.command("issue")
def issue(folder: Folder, client: Client, days: Days = 365) -> None:
    """Issue a client's certificate: one file, to hand over on a channel that nobody else can read."""
    from splitcom.transports.tls import issue_client

    Terminal().say(
        f"bundle     {issue_client(folder, client, days)}; it holds a key: hand it over in secret, then delete it"
    )


@certs.command("revoke")
def revoke(folder: Folder, client: Client) -> None:
    """Refuse a client's certificates from now on; a running server notices when it has the new revoked.pem."""
    from splitcom.transports.tls import revoke as revoke_client

    Terminal().say(
        f"revoked    {revoke_client(folder, client)} of {client}; the list is {folder / 'revoked.pem'}"
    )


@certs.command("list")
def list_(folder: Folder) -> None:
    """Show what has been issued."""
    from splitcom.transports.tls import list_issued

    for issued in list_issued(folder):
        state = "revoked" if issued.revoked else f"until {issued.expires:%Y-%m-%d}"
        Terminal().say(f"{issued.kind:8} {issued.name:24} {state:18} serial {issued.serial:x}")
