"""A run's parties as processes of their own: the server and its clients over mutual TLS, on rows that are given out.

Processes are forked from one that has imported what takes seconds and has no threads, so that a start takes no time.
"""

import fnmatch
import json
import multiprocessing
import os
import re
import runpy
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from splitcom.config import Config
from splitcom.methods.run import Run, configured
from splitcom.models import fingerprint
from splitcom.parties.texts import load_texts
from splitcom.transports import tls

PROCESS = Path(__file__).with_name("process.py")
HELD = Path(__file__).with_name("held.py")
PRELOADED = "tests.integration.preload"
PATIENCE_S = 180.0  # of the tests, never used up where all is well


def fork_server() -> Any:
    """What makes the processes; it has imported everything when this returns."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


def make_authority(folder: Path, num_clients: int = 3, hosts: Sequence[str] = ()) -> Path:
    """An authority that has issued what a deployment needs."""
    tls.create_authority(folder)
    tls.issue_server(folder, ["localhost", "127.0.0.1", *hosts])
    for index in range(num_clients):
        tls.issue_client(folder, f"client-{index}")
    return folder


_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody else is given until this process ends, so that a server can come back to it.

    It is bound and not listened at: a server may listen there nevertheless, and until one does nobody answers.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    _RESERVED.append(reserved)
    return int(reserved.getsockname()[1])


def found(folder: Path, pattern: str) -> list[Path]:
    """Files and folders of such a name below one in which others write: `rglob` raises if a folder goes meanwhile."""
    return [
        Path(parent, name)
        for parent, folders, files in os.walk(folder)
        for name in fnmatch.filter((*folders, *files), pattern)
    ]


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "not within the tests' patience"
        time.sleep(0.02)


def held(from_round: int, folder: Path) -> dict[str, str]:
    """The environment of a command by way of HELD that begins no round from this one on, until it is killed."""
    return os.environ | {"HELD_ROUND": str(from_round), "HELD_GATE": str(folder / "gate")}


class Party:
    """A process that runs a command, started anew by `start`.

    In the network namespace of that name if there is one; in `folder`, with its home below that, if one is given.
    """

    def __init__(
        self,
        forks: Any,
        log: Path,
        *arguments: object,
        namespace: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self._forks = forks
        self._log = log
        self._arguments = [str(argument) for argument in arguments]
        self._namespace = namespace
        self._folder = folder
        self._gate = log.with_suffix(".gate")
        self.hooks: dict[str, Any] = {}  # of each start

    def start(self, *more: object, hold: int | None = None, **hooks: Any) -> "Party":
        """`more` arguments and `hooks` (see process.py) are of this time.

        A client that is to be held begins no round from that one on until `release`, so that the run cannot end before
        what a test does to others has happened; `wait_until_held` waits until it has come so far.
        """
        if hold is not None:
            self._gate.unlink(missing_ok=True)
            hooks["hold"] = (hold, str(self._gate))
        globals_ = {
            "ARGUMENTS": [*self._arguments, *map(str, more)],
            "LOG": str(self._log),
            "FOLDER": self._folder,
            "NAMESPACE": self._namespace,
            "HOOKS": self.hooks | hooks,
        }
        self.process = self._forks.Process(
            target=runpy.run_path, args=(str(PROCESS), globals_, "__main__"), daemon=True
        )
        self.process.start()
        return self

    def wait_until_held(self) -> None:
        self.wait_for("held before round")

    def release(self) -> None:
        self._gate.touch()

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def wait_for(self, pattern: str, count: int = 1, patience_s: float = PATIENCE_S) -> Any:
        deadline = time.monotonic() + patience_s
        while True:
            is_alive = self.process.is_alive()  # asked first: what it has said before its end counts
            if len(found := re.findall(pattern, self.log)) >= count:
                return found[-1]
            assert is_alive and time.monotonic() < deadline, f"no {pattern!r} in:\n{self.log}"
            time.sleep(0.02)

    def end(self, code: int = 0, patience_s: float = PATIENCE_S) -> None:
        """Wait until it has ended, and with that exit code."""
        self.process.join(patience_s)
        assert self.process.exitcode == code, self.log

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Deployment:
    """A server and its clients, whose rows are those of the in-process run.

    `namespaces` are the names of the server's network namespace and of each client's; `host` is where clients reach
    the server.
    """

    def __init__(
        self,
        forks: Any,
        authority: Path,
        config: Config,
        folder: Path,
        *,
        port: int = 0,
        host: str = "localhost",
        namespaces: Sequence[str] = (),
    ) -> None:
        self.authority = authority
        self.out = folder / "run"
        self.fingerprint = fingerprint(config.model.source)
        self.names = config.client_names
        self.port = port
        self._forks = forks
        self.folder = folder
        self._host = host
        self._namespaces = namespaces or [None] * (1 + len(self.names))
        (folder / "config.toml").write_text(config.to_toml())
        self.server = Party(
            forks, folder / "server.log", "serve", folder / "config.toml", "--resume",
            "--listen", f"{'0.0.0.0' if namespaces else '127.0.0.1'}:{port}",
            "--authority", authority, "--out", self.out, "--metrics-port", 0,
            namespace=self._namespaces[0],
        )  # fmt: skip
        texts = load_texts(configured(config))
        for index, name in enumerate(self.names):
            for kind, samples in (
                ("train", texts.partition.parts[index]),
                ("held-out", texts.held_out.samples[index :: len(self.names)]),
            ):
                rows = [json.dumps(dict(sample.row.columns)) for sample in samples]
                (folder / f"{name}-{kind}.jsonl").write_text("\n".join(rows))

    def state_of(self, index: int) -> Path:
        """Where a client keeps what it goes on from."""
        return self.folder / f"{self.names[index]}-state"

    def start_server(self, **hooks: Any) -> "Deployment":
        self.server.start(**hooks)
        self.port = int(self.server.wait_for(r"listening on port (\d+)"))
        return self

    @property
    def clock(self) -> tuple[str]:
        """The hook of a server whose time is to pass by `pass_time`."""
        return (str(self.folder / "passed"),)

    def pass_time(self, seconds: float, *names: str) -> None:
        """Have the server's time make a jump, as soon as these clients are the only ones that owe it an answer."""
        partial = self.folder / "passed.partial"
        partial.write_text(" ".join([str(seconds), *names]))
        partial.rename(*self.clock)

    def client(self, index: int, *options: object, address: str | None = None) -> Party:
        name = self.names[index]
        return Party(
            self._forks, self.folder / f"{name}.log", "join", address or f"{self._host}:{self.port}",
            "--data", self.folder / f"{name}-train.jsonl", "--held-out", self.folder / f"{name}-held-out.jsonl",
            "--identity", self.authority / "clients" / f"{name}.pem", "--state", self.state_of(index),
            "--cache", self.folder / f"{name}-cache", "--device", "cpu", *options,
            namespace=self._namespaces[1 + index],
        )  # fmt: skip

    def clients(self, *options: object) -> list[Party]:
        return [self.client(index, *options) for index in range(len(self.names))]

    def assert_same_run(self, expected: Run) -> dict[str, Any]:
        """The adapter's bits and the evaluation are those of another run; returns result.json."""
        result: dict[str, Any] = json.loads((self.out / "result.json").read_text())
        theirs = load_file(self.out / "adapter" / "adapter_model.safetensors")
        ours = load_file(expected.adapter / "adapter_model.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert result["eval"] == expected.result["eval"]
        return result
