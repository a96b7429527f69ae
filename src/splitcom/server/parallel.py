"""Work for several clients at once, in threads; knows neither clients nor what is done for them.

Each call may touch the state of one client only. Nothing else happens until all calls have ended, and what has come of
them is then taken one after the other: a run ends with the same bits however many cores there are.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

T = TypeVar("T")

_MOST = 8  # threads; codecs spend about half of their time without the interpreter's lock


def at_once(calls: Mapping[str, Callable[[], T]]) -> dict[str, Callable[[], T]]:
    """Make all calls, and wait for them; each result is given, or its error raised, by a function.

    >>> results = at_once({"a": lambda: 1, "b": lambda: 2})
    >>> [result() for result in results.values()]
    [1, 2]
    """
    if len(calls) < 2 or _num_threads() < 2:
        futures = {name: _made(call) for name, call in calls.items()}
    else:
        futures = {name: _pool().submit(call) for name, call in calls.items()}
        wait(futures.values())
    return {name: future.result for name, future in futures.items()}


def _made(call: Callable[[], T]) -> "Future[T]":
    future: Future[T] = Future()
    try:
        future.set_result(call())
    except Exception as error:  # raised where the result is taken
        future.set_exception(error)
    return future


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_num_threads(), thread_name_prefix="splitcom-codec")


@cache
def _num_threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST, available)
