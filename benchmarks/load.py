"""Many clients at once: a `splitcom serve` process, and client sessions in threads of a few processes.

    python benchmarks/load.py [--clients 64] [--processes 4] [--rounds 4] [--out load.json]

Reports the server's memory for each client that is connected and waits, and for each that trains; its threads; whether
it grows from round to round; and whether anyone starves: the steps of each client from metrics.jsonl, and the seconds
from the server's message to its answer. Where the body steps on all clients' batches together, the activations of that
step are most of the memory; where it takes one after the other, what is kept for each client is.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import torch

from splitcom.config import Config
from splitcom.parties.build import build_client
from splitcom.parties.parts import Parts, front_of
from splitcom.parties.texts import load_texts
from splitcom.transports import tls
from splitcom.transports.grpc_calls import ServerCalls
from splitcom.transports.grpc_client import run_client

MIB = 2**20
PATIENCE_S = 300.0
_SPAWN = multiprocessing.get_context("spawn")


def run_clients(address: str, authority: Path, folder: Path, names: list[str], go: Event, last: str) -> None:
    """Hold the conversations of these clients, one thread for each; the last one of all waits for `go`."""
    torch.set_num_threads(1)
    identities = {name: tls.load_identity(authority / "clients" / f"{name}.pem") for name in names}
    with ServerCalls(address, identities[names[0]]) as calls:
        description = calls.describe()
    config = Config.from_toml(description.config_toml)
    texts, front = load_texts(config), front_of(config)
    held_out = texts.held_out.samples
    indices = {name: config.client_names.index(name) for name in names}
    clients = {
        name: build_client(
            name,
            config,
            Parts(front),
            texts.partition.parts[index],
            held_out[index :: config.federation.clients],
            description.model_fingerprint,
            folder / name,
        )
        for name, index in indices.items()
    }

    def converse(name: str) -> None:
        if name == last:
            go.wait()
        run_client(address, identities[name], lambda: clients[name])

    threads = [Thread(target=converse, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Server:
    """A `splitcom serve` process: its log, and what the operating system says of it."""

    def __init__(self, config: Config, authority: Path, folder: Path) -> None:
        self.out = folder / "run"
        self._log = folder / "server.log"
        (folder / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        command = ["serve", folder / "config.toml", "--authority", authority, "--out", self.out]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from splitcom.cli import main; main()",
                    *command,
                    "--listen",
                    "localhost:0",
                ],
                stdout=log,
                stderr=log,
            )
        self.wait_for(lambda: "listening on port" in self.log)
        self.port = int(re.findall(r"listening on port (\d+)", self.log)[0])

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = monotonic() + PATIENCE_S
        while not condition():
            if monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"the server has not got on:\n{self.log[-3000:]}")
            sleep(0.05)

    def settle(self) -> None:
        """Wait until its memory has not changed for a second."""
        sizes = [0] * 10
        while len(set(sizes)) > 1:
            sleep(0.1)
            sizes = [*sizes[1:], self.status("VmRSS")]

    def status(self, key: str) -> int:
        """A number of /proc/PID/status: bytes, where it has a unit."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        number, unit = re.findall(rf"^{key}:\s+(\d+)( kB)?$", text, re.MULTILINE)[0]
        return int(number) * (1024 if unit else 1)


def measure(
    num_clients: int, num_processes: int, rounds: int, folder: Path, settings: Mapping[str, object]
) -> dict[str, float]:
    """One run; `settings` change the configuration."""
    config = Config().override(
        {
            "model.device": "cpu",
            "federation.clients": num_clients,
            "data.samples": 8 * num_clients,
            "data.held_out_samples": num_clients,
            "training.rounds": rounds,
            "training.batch_size": 4,
            "evaluation.every": rounds,
            "evaluation.generate": 0,
        }
        | settings
    )
    names = config.client_names
    authority = folder / "authority"
    tls.create_authority(authority)
    tls.issue_server(authority, ["localhost"])
    for name in names:
        tls.issue_client(authority, name)
    server = Server(config, authority, folder)
    server.settle()
    bare_bytes = server.status("VmRSS")

    go = _SPAWN.Event()
    address = f"localhost:{server.port}"
    processes = [
        _SPAWN.Process(
            target=run_clients,
            args=(address, authority, folder, names[index::num_processes], go, names[-1]),
            daemon=True,
        )
        for index in range(num_processes)
    ]
    for process in processes:
        process.start()
    server.wait_for(lambda: server.log.count(" is connected from") >= num_clients - 1)
    server.settle()
    idle_bytes = server.status("VmRSS")

    started = monotonic()
    go.set()
    rss_by_round: dict[int, list[int]] = defaultdict(list)
    num_threads = 0
    while server.process.poll() is None:
        number = server.log.count(" is done")  # of which one is the evaluation before training
        try:
            rss_by_round[number].append(server.status("VmRSS"))
            num_threads = max(num_threads, server.status("Threads"))
            peak_bytes = server.status("VmHWM")
        except (OSError, IndexError):
            break  # it has just ended
        sleep(0.1)
    seconds = monotonic() - started
    for process in processes:
        process.join()
    if server.process.wait() or any(process.exitcode for process in processes):
        raise SystemExit(f"the run has failed:\n{server.log[-3000:]}")

    steps, waits = spread(server.out / "metrics.jsonl")
    result = json.loads((server.out / "result.json").read_text(encoding="utf-8"))
    in_rounds = {number: statistics.median(sizes) for number, sizes in rss_by_round.items()}
    kept = {number: min(sizes) for number, sizes in rss_by_round.items()}
    return {
        "clients": num_clients,
        "processes": num_processes,
        "seconds": seconds,
        "steps": sum(steps),
        "initial loss": result["eval"]["initial_loss"],
        "loss": result["eval"]["loss"],
        "server, no client, MiB": bare_bytes / MIB,
        "per idle client, MiB": (idle_bytes - bare_bytes) / (num_clients - 1) / MIB,
        "per active client, MiB": (in_rounds[rounds] - bare_bytes) / num_clients / MIB,
        "per active client at the peak, MiB": (peak_bytes - bare_bytes) / num_clients / MIB,
        "growth from the second round to the last, MiB": (kept[rounds] - kept[2]) / MIB,
        "threads": num_threads,
        "steps of a client, least": min(steps),
        "steps of a client, most": max(steps),
        "seconds for an answer, least": min(waits),
        "seconds for an answer, most": max(waits),
    }


def spread(metrics: Path) -> tuple[list[int], list[float]]:
    """Every client's steps of the run, and its mean seconds from the server's message of a step to its answer."""
    steps: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for text in metrics.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["steps"]:
            steps[line["client"]] += line["steps"]
            seconds[line["client"]] += line["seconds"]["client"]
    return list(steps.values()), [seconds[name] / steps[name] for name in steps]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {}
    for body_update in ("parallel", "sequential"):
        with tempfile.TemporaryDirectory() as folder:
            settings = {"training.body_update": body_update}
            results[body_update] = measure(
                arguments.clients, arguments.processes, arguments.rounds, Path(folder), settings
            )
    print(f"{'':48} {'parallel':>10} {'sequential':>10}")
    for name in results["parallel"]:
        print(f"{name:48} " + " ".join(f"{result[name]:10,.2f}" for result in results.values()))
    if arguments.out:
        content = {"cores": os.cpu_count(), "results": results}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
