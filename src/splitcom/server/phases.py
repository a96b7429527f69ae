"""What the server's time goes into, by phase; phases may lie within one another, and each second counts once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

PHASES = ("waiting", "decode", "body", "encode", "save")


class Phases:
    """Seconds since they were last taken.

    >>> times = iter([0.0, 1.0, 3.0, 3.5])
    >>> phases = Phases(lambda: next(times))
    >>> with phases("body"):
    ...     with phases("waiting"):  # as in the U-shape, for the tails
    ...         pass
    >>> phases.take()
    {'waiting': 2.0, 'decode': 0.0, 'body': 1.5, 'encode': 0.0, 'save': 0.0}
    >>> Phases(names=("front", "body")).take()
    {'front': 0.0, 'body': 0.0}
    """

    def __init__(self, clock: Callable[[], float] = perf_counter, names: Sequence[str] = PHASES) -> None:
        self._clock = clock
        self._seconds = dict.fromkeys(names, 0.0)
        self._stack: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what is done within as this phase."""
        self._turn()
        self._stack.append(phase)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call."""
        taken, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return taken

    def _turn(self) -> None:
        now = self._clock()
        if self._stack:
            self._seconds[self._stack[-1]] += now - self._since
        self._since = now
