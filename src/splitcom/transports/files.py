"""How many files this process may have open: each connection is one. Knows no transport."""

import logging
import sys

if sys.platform != "win32":
    import resource

_LOG = logging.getLogger(__name__)
_OTHER_FILES = 512  # libraries, logs, checkpoints, and references, of which 64 files are open at most


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files as far as so many connections need; warns if it cannot be raised so far.

    A connection that takes another's place is there beside it for a while, so each counts twice.
    """
    if sys.platform == "win32":  # has no such limit
        return
    needed = 2 * count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        _LOG.warning(
            "federation.clients = %d: they need up to %d open files, and this process may have %d; some will fail. "
            "Raise the limit (LimitNOFILE of systemd, ulimit -n of a shell)",
            count, needed, hard,
        )  # fmt: skip
        needed = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
