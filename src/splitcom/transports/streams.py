"""The calls that are under way at a server, and which of them gives way to others; knows no gRPC.

A call takes one of the server's threads for as long as it lasts, and one that says nothing, or takes nothing that is
sent to it, lasts. So every call is noted before anything of it is waited for, and there are never more than so many of
one client, and of all. One too many ends the oldest: of its own client first, or else of whoever has most.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock


def _never() -> bool:
    return False


@dataclass(eq=False)
class Stream:
    """A call; one that `is_needed` counts for nothing and gives way to none."""

    client: str
    cancel: Callable[[], object] = field(repr=False)
    is_needed: Callable[[], bool] = field(default=_never, repr=False)


class Streams:
    """At most `per_client` calls of one client and `in_all` of all.

    >>> from functools import partial
    >>> streams, calls, ended = Streams(per_client=2, in_all=3), [], []
    >>> for number, client in enumerate("aaabc"):
    ...     calls.append(streams.held(client, partial(ended.append, number)))
    ...     _ = calls[-1].__enter__()
    >>> ended
    [0, 1]
    """

    def __init__(self, per_client: int, in_all: int) -> None:
        self._per_client = per_client
        self._in_all = in_all
        self._lock = Lock()
        self._streams: list[Stream] = []  # oldest first, without those that have been ended

    @contextmanager
    def held(self, client: str, cancel: Callable[[], object]) -> Iterator[Stream]:
        """Note a call until the block is left; `cancel` ends it, from any thread."""
        stream = Stream(client, cancel)
        with self._lock:
            self._streams.append(stream)
            victims = [victim for victim in (self._too_many_of(client), self._too_many()) if victim]
        for victim in victims:
            victim.cancel()
        try:
            yield stream
        finally:
            with self._lock:
                if stream in self._streams:
                    self._streams.remove(stream)

    def _too_many_of(self, client: str) -> Stream | None:
        theirs = [stream for stream in self._streams if stream.client == client and not stream.is_needed()]
        return self._taken_out(theirs[0]) if len(theirs) > self._per_client else None

    def _too_many(self) -> Stream | None:
        waiting = [stream for stream in self._streams if not stream.is_needed()]
        if len(waiting) <= self._in_all:
            return None
        counts = Counter(stream.client for stream in waiting)
        return self._taken_out(max(waiting, key=lambda stream: counts[stream.client]))

    def _taken_out(self, stream: Stream) -> Stream:
        self._streams.remove(stream)
        return stream
