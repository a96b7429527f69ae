"""The terminal, and the only module that imports rich: whatever it is given is shown as it is; knows nothing of runs.

Rich reads square brackets as markup and lets control characters pass, so that a label `[/INST]` ends a run and one with
an escape clears the screen. Here strings are never markup, nothing in them acts on the terminal (see foreign.py), and
no failure to write raises: a run is not lost with the window that it is watched in.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import IO, Any, TextIO, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.segment import Segment
from rich.status import Status
from rich.table import Column
from rich.table import Table as _Table
from rich.text import Text

from splitcom.foreign import LogFormatter, visible

__all__ = [
    "Group",
    "Live",
    "Progress",
    "RenderableType",
    "Table",
    "Terminal",
    "TerminalLog",
    "allow_any_text",
    "line",
    "live_page",
    "progress",
    "quiet_terminals",
]

_IS_QUIET = ContextVar("_IS_QUIET", default=False)


class Terminal(Console):
    """Standard output, or standard error; `file` and `width` are for tests."""

    def __init__(self, *, stderr: bool = False, file: TextIO | None = None, width: int | None = None) -> None:
        stream = file or (sys.stderr if stderr else sys.stdout)
        super().__init__(
            file=cast(IO[str], _Unfailing(stream)),
            stderr=stderr,
            quiet=_IS_QUIET.get() and not stderr,
            width=width,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def say(self, text: object, style: str = "") -> None:
        """Print a text, whose lines the terminal may wrap but nobody else."""
        self.print(line(text, style), soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What everything passes that is printed, alone, in a table or in a live page."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, lines=True), segment.style)

    def render_str(self, text: str, **options: Any) -> Text:
        """What every string passes: made visible before its width is measured."""
        return super().render_str(visible(text, lines=True), **options)

    def working(self, text: str) -> Status:
        """Show a text while something is done; a context manager, whose `update` takes what `line` gives."""
        return self.status(line(text))


class Table(_Table):
    """Cells, title and caption are plain text; a grid has neither a head nor a rule."""

    def __init__(self, *, title: str | None = None, caption: str | None = None, grid: bool = False) -> None:
        super().__init__(
            title=None if title is None else line(title),
            caption=None if caption is None else line(caption),
            title_justify="left",
            caption_justify="left",
            box=None if grid else SIMPLE_HEAD,
            show_header=not grid,
            padding=(0, 2, 0, 0) if grid else (0, 1),
            pad_edge=not grid,
            collapse_padding=True,
        )

    def add_row(self, *cells: "RenderableType | None", style: Any = None, end_section: bool = False) -> None:
        """Add a row; strings are shown as they are."""
        plain = (line(cell) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*plain, style=style, end_section=end_section)


class TerminalLog(RichHandler):
    """Shows a log above whatever is live in the terminal."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(console=terminal, show_path=False, show_level=False, markup=False)
        self.setFormatter(LogFormatter())


@contextmanager
def quiet_terminals(quiet: bool) -> Iterator[None]:
    """If so, have terminals that are made meanwhile say nothing; standard error is not silenced."""
    token = _IS_QUIET.set(quiet)
    try:
        yield
    finally:
        _IS_QUIET.reset(token)


def line(text: object, style: str = "") -> Text:
    """A text to print as it is."""
    return Text(visible(text, lines=True), style=style)


def progress(terminal: Terminal) -> Progress:
    """A bar between a task's description and its field `status`, with the time that is left."""
    return Progress(
        _Plain(lambda task: task.description),
        BarColumn(bar_width=20),
        _Plain(lambda task: str(task.fields["status"])),
        TimeRemainingColumn(compact=True),
        console=terminal,
    )


def live_page(terminal: Terminal, render: Callable[[], RenderableType]) -> Live:
    """A page that is drawn anew twice a second and leaves nothing behind; one that cannot be drawn says why."""

    def drawn() -> RenderableType:
        try:
            return render()
        except Exception as error:  # else the thread that draws would end, and the page stand still
            logging.getLogger(__name__).debug("the page cannot be drawn", exc_info=True)
            return line(f"this page cannot be drawn: {type(error).__name__}: {error}", "red")

    return Live(console=terminal, get_renderable=drawn, refresh_per_second=2, transient=True)


def allow_any_text() -> None:
    """Have the two standard streams escape characters that their encoding lacks, rather than raise."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Plain(ProgressColumn):
    def __init__(self, text: Callable[[Task], str]) -> None:
        super().__init__(Column(no_wrap=True))
        self._text = text

    def render(self, task: Task) -> Text:
        return line(self._text(task))


class _Unfailing:
    """A stream that raises nothing when it is written to; what has failed once goes nowhere from then on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # ValueError: it has been closed
            self._silence()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._silence()

    def _silence(self) -> None:
        """What is still in the stream's buffer goes nowhere, or else it would fail again when the process ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
