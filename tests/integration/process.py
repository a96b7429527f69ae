"""The command line in a process of its own, forked from one that has imported everything: a start takes no time.

Run by path (runpy) with these set; what the process prints goes to LOG.

    ARGUMENTS   of the command
    NAMESPACE   the network namespace to be in, or None
    POISON      if it is set, the round from which on a client sends its adapter so many times as large, and how many
    TRAP        None, or where the process is to be killed: {"code": what to search for in "path:function", "line":
                before the how manieth line that is executed there, "delay_s": or so much later}; line 0 only counts
"""

import ctypes
import functools
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from splitcom.cli import main

_NEWNET = 0x40000000


def enter(namespace):
    """Move this thread, and those that it will start, into a network namespace."""
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def set_trap(code, line, delay_s):
    """Have this process killed at the `line`-th line of this code; returns how many have been run, by function."""
    matches = functools.cache(re.compile(code).search)
    executed = Counter()
    kill = killer(delay_s)

    def call(frame, event, argument):
        where = f"{frame.f_code.co_filename}:{frame.f_code.co_name}"
        return functools.partial(each, where) if matches(where) else None

    def each(where, frame, event, argument):
        if event == "line":
            executed[where] += 1
            if executed.total() == line:
                kill()
        return functools.partial(each, where)

    sys.settrace(call)
    return executed


def poison(from_round, factor):
    """Have this client send adapters that are so many times as large, from this round on."""
    from splitcom.client.client import Client

    made = Client._made

    def poisoned(self, round_index):
        if round_index >= from_round:
            self._trainer.load_adapter({name: t * factor for name, t in self._trainer.adapter().items()})
        return made(self, round_index)

    Client._made = poisoned


def killer(delay_s):
    """What has this process killed: at once, or from outside after a delay, wherever it is then."""
    victim = os.getpid()
    if not delay_s:
        return functools.partial(os.kill, victim, signal.SIGKILL)
    signalled, signalling = os.pipe()
    if os.fork() == 0:
        os.close(signalling)
        if os.read(signalled, 1):
            time.sleep(delay_s)
            os.kill(victim, signal.SIGKILL)
        os._exit(0)
    return functools.partial(os.write, signalling, b"-")


if __name__ == "__main__":
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)  # noqa: F821
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["splitcom", *ARGUMENTS]  # noqa: F821
    torch.set_num_threads(1)
    if NAMESPACE is not None:  # noqa: F821
        enter(NAMESPACE)  # noqa: F821
    if attack := globals().get("POISON"):
        poison(*attack)
    executed = set_trap(**TRAP) if TRAP else Counter()  # noqa: F821
    try:
        main()
    finally:
        sys.settrace(None)
        if executed:
            print(f"executed {json.dumps(executed)}")
