"""Text that others have written, made safe to show in terminals and logs; knows nothing of where it comes from.

A column's value, a file's name or a peer's reason may hold anything: escapes that move the cursor, newlines that make a
second line of a log, characters that turn the reading order around, megabytes. All of it is shown, none of it acts.
"""

import json
import logging
import re
from datetime import UTC, datetime
from types import TracebackType

PEER_CHARACTERS = 1000  # of a text that the other side has sent
_LOG_CHARACTERS = 4000  # of one line of a log

# Control characters, line and paragraph separators, marks that change the reading order, invisible ones, halves of
# surrogate pairs. The joiners U+200C and U+200D stay: Persian, Hindi and emoji are written with them.
_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_KEPT_IN_LINES = "\n\t"


def visible(text: object, limit: int | None = None, *, lines: bool = False) -> str:
    r"""Write what would act on a terminal as an escape, and say how much is left out beyond `limit` characters.

    With `lines`, newlines and tabs stay what they are.

    >>> visible("\x1b[2Jclinic\n\u202egnp")
    '\\x1b[2Jclinic\\n\\u202egnp'
    >>> visible("[/INST] a"), visible("a" * 9, limit=4), visible("a\nb", lines=True)
    ('[/INST] a', 'aaaa… (5 characters more)', 'a\nb')
    """
    whole = str(text)
    shown = whole if limit is None else whole[:limit]
    shown = _ACTING.sub(
        lambda found: (
            found[0]
            if lines and found[0] in _KEPT_IN_LINES
            else found[0].encode("unicode_escape").decode("ascii")
        ),
        shown,
    )
    left_out = len(whole) - (len(whole) if limit is None else min(limit, len(whole)))
    return f"{shown}… ({left_out:,} characters more)" if left_out else shown


class LogFormatter(logging.Formatter):
    """Writes each record on a line of its own, whatever its arguments hold; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Write the record's line."""
        record.message = visible(record.message, _LOG_CHARACTERS)
        return super().formatMessage(record)

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Write a traceback."""
        return visible(super().formatException(ei), lines=True)


class JsonFormatter(LogFormatter):
    """Writes each record as one JSON object on a line: time, level, logger, message, and what was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": visible(record.getMessage(), _LOG_CHARACTERS),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)
