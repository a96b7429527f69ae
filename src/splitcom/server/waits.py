"""What the log says of clients that are waited for; knows no conversation."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from splitcom.server.peers import Standing

_LOG = logging.getLogger(__name__)


def say_who_is_waited_for(name: str, standing: Standing) -> None:
    """Say since when a client owes a message."""
    waited_s = standing.waited_s or 0.0
    _LOG.warning(
        "waiting for %s since %s (%.0f s): it is %s", name, _time_of(waited_s), waited_s, describe(standing)
    )


def say_who_is_missing(present: Sequence[str], expected: int, waited_s: float) -> None:
    """Say how many clients have not come yet."""
    _LOG.warning(
        "waiting for %d of %d clients since %s (%.0f s); here: %s",
        expected - len(present),
        expected,
        _time_of(waited_s),
        waited_s,
        ", ".join(present) or "nobody",
    )


def describe(standing: Standing) -> str:
    """What a client is at, and why it has failed.

    >>> describe(Standing("training")), describe(Standing("failed", reason="no space left"))
    ('training', 'failed: no space left')
    """
    return f"{standing.state}: {standing.reason}" if standing.reason else standing.state


def _time_of(ago_s: float) -> str:
    return f"{datetime.now() - timedelta(seconds=ago_s):%H:%M:%S}"
