"""Commands that several processes run: they are started, the first leads, and the others of its engine follow."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from splitcom.config import Config

P = ParamSpec("P")


def led(command: Callable[P, None]) -> Callable[P, None]:
    """The command for the process that leads; one that torchrun has started beside it does what that one says."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from splitcom.methods.processes import together

        with together() as leads:
            if leads:
                command(*args, **kwargs)

    return run


def started(config: "Config", **machines: Any) -> None:
    """Have all that a command does be done by processes of its own, if its engine has several; then it ends here."""
    from splitcom.methods.processes import Machines, start_processes

    code = start_processes(config, Machines(**machines))
    if code is not None:
        raise typer.Exit(code)
