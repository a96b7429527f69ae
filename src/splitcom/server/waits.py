"""What the log says of clients that are waited for; knows no conversation."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from splitcom.amount import counted
from splitcom.server.peers import Standing

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Missing:
    """How many clients have not come yet without whom no round begins."""

    number: int
    expected: int
    waited_s: float
    here: Sequence[str]

    def __str__(self) -> str:
        here = ", ".join(self.here) or "nobody"
        return f"waiting for {self.number} of {counted(self.expected, 'client')} {since(self.waited_s)}; here: {here}"


def say_who_is_waited_for(name: str, standing: Standing) -> None:
    """Say since when a client owes a message."""
    _LOG.warning("waiting for %s %s: it is %s", name, since(standing.waited_s or 0.0), describe(standing))


def describe(standing: Standing) -> str:
    """What a client is at, and why it has failed.

    >>> describe(Standing("training")), describe(Standing("failed", reason="no space left"))
    ('training', 'failed: no space left')
    """
    return f"{standing.state}: {standing.reason}" if standing.reason else standing.state


def since(ago_s: float) -> str:
    """Since when, by this machine's clock, and for how long."""
    return f"since {datetime.now() - timedelta(seconds=ago_s):%H:%M:%S} ({ago_s:.0f} s)"
