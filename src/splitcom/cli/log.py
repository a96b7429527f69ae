"""The options by which programs that run for long are watched; loads nothing heavy."""

from typing import Annotated, Literal

import typer

LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option(envvar="SPLITCOM_LOG", help="How the log is written: as text, or one JSON object a line."),
]
MetricsAddress = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        "--metrics-port",
        metavar="HOST:PORT",
        help="Serve /metrics, /healthz and /readyz there; a port alone is one of this machine.",
    ),
]
DashboardAddress = Annotated[
    str | None,
    typer.Option(
        "--dashboard",
        metavar="HOST:PORT",
        help="Serve a live page there, for a browser; a port alone is one of this machine.",
    ),
]
