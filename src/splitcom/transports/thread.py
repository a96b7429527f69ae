"""Threads that never end without a word: what one raises is handed to whoever waits for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

Waiting = Callable[[BaseException], None]
"""Takes what a thread has raised to whoever waits for the thread, such as the `put` of the queue that is waited on."""


def start(name: str, body: Callable[[], None], waiting: Waiting) -> Thread:
    """Run `body` in a thread that does not keep the process alive."""

    def run() -> None:
        with handed_to(waiting):
            body()

    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


@contextmanager
def handed_to(waiting: Waiting) -> Iterator[None]:
    """Hand on what the block raises, which then ends; for code that another library's threads run.

    >>> with handed_to(lambda error: print("handed on:", error)):
    ...     raise ValueError("lost")
    handed on: lost
    """
    try:
        yield
    except GeneratorExit:  # whoever iterates has stopped to: no failure
        raise
    except BaseException as error:
        waiting(error)
