"""How much a command says, and in which form: `--quiet`, `--log-level` and `--json`, the same for every command."""

import functools
import inspect as reflection
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, get_type_hints

import typer

from splitcom.foreign import LogFormatter
from splitcom.report.terminal import Terminal, quiet_terminals

_LOG = logging.getLogger("splitcom")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Write the result to stdout as JSON, and nothing else.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option("--log-level", envvar="SPLITCOM_LOG_LEVEL", help="What of the log is shown on stderr."),
]


def spoken(command: Callable[..., Any]) -> Callable[..., None]:
    """Give a command these options. What it returns is what `--json` writes: one that returns nothing has no such."""
    hints = get_type_hints(command, include_extras=True)
    has_result = hints.pop("return") is not type(None)
    own = {"quiet": Quiet, "log_level": LogLevel} | ({"json": Json} if has_result else {})

    @functools.wraps(command)
    def run(
        *arguments: Any, quiet: bool = False, log_level: str | None = None, json: bool = False, **options: Any
    ) -> None:
        with _logging(log_level), quiet_terminals(quiet or json):
            found = command(*arguments, **options)
        if json:
            _write(found)

    signature = reflection.signature(command)
    added = [
        reflection.Parameter(name, reflection.Parameter.KEYWORD_ONLY, default=default, annotation=own[name])
        for name, default in (("quiet", False), ("json", False), ("log_level", None))
        if name in own
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = hints | own
    return run


def _write(found: object) -> None:
    Terminal().say(json.dumps(found, indent=2, default=str))  # ASCII, which a terminal shows as it is


@contextmanager
def _logging(level: str | None) -> Iterator[None]:
    """Show the log from this level on; without one, what the command itself chooses, or warnings."""
    if level is None:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    before = _LOG.level
    _LOG.setLevel(level.upper())
    if not _LOG.handlers:
        _LOG.addHandler(handler)
    try:
        yield
    finally:
        _LOG.setLevel(before)
        _LOG.removeHandler(handler)
