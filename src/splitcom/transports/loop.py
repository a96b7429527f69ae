"""The event loop on which the connections of this process's servers run, in one thread however many clients there are.

There is one for the process: gRPC's asyncio layer wakes all loops by the same pipe, and two of them would read it from
under one another. Whatever takes long there holds up all clients, so files are read and made in `asyncio.to_thread`.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine
from functools import cache
from threading import Lock
from typing import Any, TypeVar

from splitcom.transports.thread import start

_LOG = logging.getLogger(__name__)
_ResultT = TypeVar("_ResultT")
_LOCK = Lock()


def network_loop() -> asyncio.AbstractEventLoop:
    """The loop, which runs from the first call on."""
    with _LOCK:
        return _running_in(os.getpid())


def run_on_loop(work: Coroutine[Any, Any, _ResultT]) -> _ResultT:
    """Wait for what another thread's work on the loop gives or raises.

    >>> run_on_loop(asyncio.sleep(0, "done"))
    'done'
    """
    return asyncio.run_coroutine_threadsafe(work, network_loop()).result()


@cache
def _running_in(process: int) -> asyncio.AbstractEventLoop:
    # By process, since one that is forked has none of its parent's threads.
    loop = asyncio.new_event_loop()
    start(
        "network", loop.run_forever, lambda error: _LOG.critical("the network's thread has ended: %s", error)
    )
    return loop
