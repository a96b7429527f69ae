"""Logs as JSON: one object a line, whatever is in it."""

import io
import json
import logging

from splitcom.foreign import JsonFormatter


def test_each_record_is_one_object_on_a_line_that_acts_on_nothing():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.Logger("splitcom.test")
    log.addHandler(handler)
    log.warning("%s is refused: %s", "clinic-a", 'no\n"rows"\x1b[2J')
    try:
        raise ValueError("a\u2028b")
    except ValueError:
        log.exception("it failed")
    log.info("x" * 1_000_000)
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["logger"]) == ("WARNING", "splitcom.test")
    assert first["message"] == 'clinic-a is refused: no\\n"rows"\\x1b[2J' and first["time"].endswith("+00:00")
    assert "ValueError: a\\u2028b" in second["exception"] and "exception" not in first
    assert len(third["message"]) < 5000 and "characters more" in third["message"]
