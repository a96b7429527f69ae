"""The command line in a process of its own, forked from one that has imported everything: a start takes no time.

Run by path (runpy) with these set; what the process prints goes to LOG.

    ARGUMENTS   of the command
    FOLDER      the working directory, which is also the home then, or None
    NAMESPACE   the network namespace to be in, or None
    HOOKS       what is to happen to the process, by name:
        clock   (path): the server's time makes a jump when that file appears, see `jump`
        hold    (round, path): a client begins no round from this one on until that file is there
        poison  (round, factor): a client sends adapters so many times as large, from this round on
        spoil   (how, step): a client "crashes" at that step, "fails" with an error, or is "silent" and answers pings
        say     (text,): the standard input is a terminal, at which this is typed
        trap    {"code": what to search for in "path:function", "line": before the how manieth line that is executed
                there the process is killed, "delay_s": or so much later}; line 0 only counts
"""

import ctypes
import functools
import itertools
import json
import os
import pty
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from splitcom.cli import main

_NEWNET = 0x40000000
_POLL_S = 0.05
_MOST_S = 600  # that a process is held or silent, so that none is left for ever if a test is interrupted
CRASHED = 9


def enter(namespace):
    """Move this thread, and those that it will start, into a network namespace."""
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def set_trap(code, line, delay_s):
    """Have this process killed at the `line`-th line of this code; returns how many have been run, by function."""
    matches = re.compile(code).search
    executed = Counter()
    kill = killer(delay_s)

    seen = {}  # by a code's id, since its hash is made anew of its whole content

    def call(frame, event, argument):
        called = frame.f_code
        if id(called) not in seen:
            where = f"{called.co_filename}:{called.co_name}"
            seen[id(called)] = called, functools.partial(each, where) if matches(where) else None
        return seen[id(called)][1]

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

    def poisoned(self, start, weight):
        if start.round >= from_round:
            self._trainer.load_adapter({name: t * factor for name, t in self._trainer.adapter().items()})
        return made(self, start, weight)

    Client._made = poisoned


def hold(from_round, path):
    """Have this client begin no round from this one on until the file is there; the log says that it waits."""
    from splitcom.client.client import Client

    train = Client._train

    def held(self, start):
        if start.round >= from_round and not Path(path).exists():
            print(f"held before round {start.round}", flush=True)
            deadline = time.monotonic() + _MOST_S
            while not Path(path).exists():
                assert time.monotonic() < deadline, "whoever was to let it go on is gone"
                time.sleep(_POLL_S)
        return (yield from train(self, start))

    Client._train = held


def say(text):
    """Sit this process down at a terminal, and type."""
    ours, theirs = pty.openpty()
    os.dup2(theirs, 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.write(ours, text.encode())


def spoil(how, at):
    """Have this client come to grief at its `at`-th step."""
    from splitcom.client.front import FrontTrainer

    step, counted = FrontTrainer._step, itertools.count(1)

    def spoilt(self, *content):
        if next(counted) == at:
            if how == "crashes":
                os._exit(CRASHED)
            if how == "fails":
                raise OSError(28, "No space left on device")
            print("silent from now on")
            time.sleep(_MOST_S)
        return (yield from step(self, *content))

    FrontTrainer._step = spoilt


def jump(path):
    """Have this server's time go on by the seconds that the file names, once the clients it names alone owe an answer.

    So what is waited for in vain is given up at once, and nobody who is slow, whatever the machine is at.
    """
    from splitcom.server.conversations import Conversations
    from splitcom.transports import grpc_server

    take_next, passed_s = Conversations._next, 0.0
    grpc_server.monotonic = lambda: time.monotonic() + passed_s

    def stepwise(self, deadline):
        nonlocal passed_s
        now, until = self.transport.now, float("inf") if deadline is None else deadline
        while True:
            if take_next(self, min(now() + _POLL_S, until)):
                return True
            if now() >= until:
                return False
            if Path(path).exists():
                seconds, *names = Path(path).read_text().split()
                if {name for name, peer in self.peers.items() if peer.owes} == set(names):
                    Path(path).unlink()
                    passed_s += float(seconds)

    Conversations._next = stepwise


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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells have ignored in the background
    if FOLDER is not None:  # noqa: F821
        os.chdir(FOLDER)  # noqa: F821
        os.environ["HOME"] = str(Path(FOLDER, "home"))  # noqa: F821
        os.umask(0)  # as wrong as can be
    if NAMESPACE is not None:  # noqa: F821
        enter(NAMESPACE)  # noqa: F821
    hooks = dict(HOOKS)  # noqa: F821
    trap = hooks.pop("trap", None)
    for name, arguments in hooks.items():
        {"clock": jump, "hold": hold, "poison": poison, "say": say, "spoil": spoil}[name](*arguments)
    executed = set_trap(**trap) if trap else Counter()
    try:
        main()
    finally:
        sys.settrace(None)
        if executed:
            print(f"executed {json.dumps(executed)}")
