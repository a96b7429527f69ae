"""A run's parties as processes of their own: the server and its clients over mutual TLS, on rows that are given out.

Processes are forked from one that has imported what takes seconds and has no threads, so that a start takes no time.
"""

import json
import multiprocessing
import os
import re
import runpy
import socket
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from splitcom.client.front import FrontTrainer
from splitcom.config import Config
from splitcom.methods.run import Run, configured
from splitcom.models import fingerprint
from splitcom.parties.texts import load_texts
from splitcom.transports import tls

PROCESS = Path(__file__).with_name("process.py")
PRELOADED = [
    "torch",
    "transformers",
    "peft",
    "splitcom.methods.serve",
    "splitcom.methods.join",
    "splitcom.report",
]
CRASHED = 9
PATIENCE_S = 60.0  # of the tests, never used up where all is well


def fork_server() -> Any:
    """What makes the processes; it has imported everything when this returns."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _run_spoilt(how: str, at: int, arguments: dict[str, Any]) -> None:
    step, count = FrontTrainer._step, 0

    def spoilt(self: Any, *content: Any) -> Generator[Any, Any, bool]:
        nonlocal count
        count += 1
        if count == at:
            if how == "crashes":
                os._exit(CRASHED)
            if how == "fails":
                raise OSError(28, "No space left on device")
            time.sleep(600)
        return (yield from step(self, *content))

    FrontTrainer._step = spoilt  # type: ignore[method-assign]
    runpy.run_path(str(PROCESS), arguments, "__main__")


class Party:
    """A process that runs a command; started anew by `start`, in the network namespace of that name if there is one."""

    def __init__(self, forks: Any, log: Path, *arguments: object, namespace: str | None = None) -> None:
        self._forks = forks
        self._log = log
        self._arguments = [str(argument) for argument in arguments]
        self._namespace = namespace

    def start(
        self, *more: object, trap: dict[str, Any] | None = None, poison: tuple[int, float] | None = None
    ) -> "Party":
        """`more` arguments are of this time; `trap` and `poison` as in process.py."""
        globals_ = {
            "ARGUMENTS": [*self._arguments, *map(str, more)],
            "LOG": str(self._log),
            "NAMESPACE": self._namespace,
            "TRAP": trap,
            "POISON": poison,
        }
        self.process = self._forks.Process(
            target=runpy.run_path, args=(str(PROCESS), globals_, "__main__"), daemon=True
        )
        self.process.start()
        return self

    def start_spoilt(self, how: str, at: int) -> "Party":
        """A client that at its `at`-th step is "silent", which answers pings, "fails" with an error, or "crashes"."""
        globals_ = {"ARGUMENTS": self._arguments, "LOG": str(self._log), "NAMESPACE": None, "TRAP": None}
        self.process = self._forks.Process(target=_run_spoilt, args=(how, at, globals_), daemon=True)
        self.process.start()
        return self

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def wait_for(self, pattern: str, count: int = 1, patience_s: float = PATIENCE_S) -> Any:
        deadline = time.monotonic() + patience_s
        while len(found := re.findall(pattern, self.log)) < count:
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.log}"
            assert self.process.is_alive() or re.search(pattern, self.log), self.log
            time.sleep(0.02)
        return found[-1]

    def end(self, patience_s: float = PATIENCE_S) -> None:
        self.process.join(patience_s)
        assert self.process.exitcode == 0, self.log

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

    def start_server(self) -> "Deployment":
        self.server.start()
        self.port = int(self.server.wait_for(r"listening on port (\d+)"))
        return self

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
