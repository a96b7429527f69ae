"""The calls that are under way at a server, and which of them gives way to others; knows no gRPC and no threads.

A call takes memory for as long as it lasts, and one that says nothing, or takes nothing that is sent to it, lasts. So
every call is noted before anything of it is waited for, and there are never more than so many of one client, and of
all. One too many ends the oldest: of its own client first, or else of whoever has most. One that has been told to end
may still hold what its peer does not take; who has too many of those gets no other.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class TooManyStreams(Exception):  # noqa: N818  (an event, no error)
    """So many calls of this client have been ended and are not gone that it gets no other yet."""


def _never() -> bool:
    return False


@dataclass(eq=False)
class Stream:
    """A call; one that `is_needed` counts for nothing and gives way to none."""

    client: str
    cancel: Callable[[], object] = field(repr=False)
    is_needed: Callable[[], bool] = field(default=_never, repr=False)
    is_leaving: bool = False  # it has been told to end


class Streams:
    """At most `per_client` calls of one client and `in_all` of all; beside them a few that have been told to end.

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
        self._streams: list[Stream] = []  # oldest first, without those that have given way
        self._leaving: Counter[str] = Counter()  # those, by client

    @contextmanager
    def held(self, client: str, cancel: Callable[[], object]) -> Iterator[Stream]:
        """Note a call until the block is left; `cancel` ends it. Raises TooManyStreams."""
        if self._leaving[client] >= 4 * self._per_client:
            raise TooManyStreams
        stream = Stream(client, cancel)
        self._streams.append(stream)
        self._end(self._too_many_of(client))
        self._end(self._too_many())
        try:
            yield stream
        finally:
            if stream.is_leaving:
                self._leaving[client] -= 1
            else:
                self._streams.remove(stream)

    def dismiss(self, stream: Stream) -> None:
        """Note that a call is ending; it is not chosen any more."""
        if not stream.is_leaving:
            stream.is_leaving = True
            self._streams.remove(stream)
            self._leaving[stream.client] += 1

    def _end(self, victim: Stream | None) -> None:
        if victim is not None:
            self.dismiss(victim)
            victim.cancel()

    def _too_many_of(self, client: str) -> Stream | None:
        theirs = [stream for stream in self._streams if stream.client == client and not stream.is_needed()]
        return theirs[0] if len(theirs) > self._per_client else None

    def _too_many(self) -> Stream | None:
        waiting = [stream for stream in self._streams if not stream.is_needed()]
        if len(waiting) <= self._in_all:
            return None
        counts = Counter(stream.client for stream in waiting)
        return max(waiting, key=lambda stream: counts[stream.client])
