"""The processes of one command: the engine's, if torchrun has started some."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from splitcom.engines.processes import are_several, follows, joined
from splitcom.engines.sharded import follow
from splitcom.parties.parts import body_of


@contextmanager
def together() -> Iterator[bool]:
    """Within it, this process leads those of the engine, or is alone: True.

    In a process that follows it is False, and everything has been done, to the end of the run.
    """
    if not are_several():
        yield True
        return
    with joined():
        if follows():
            follow(partial(body_of, for_engine=True))
        yield not follows()
