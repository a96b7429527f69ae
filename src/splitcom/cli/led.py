"""Commands that several processes run: the first leads, and the others of its engine follow."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

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
