"""Many clients at once: a `splitcom serve` process, and client sessions in a few processes.

    python benchmarks/load.py [--clients 64] [--processes 4] [--rounds 4] [--out load.json]
    python benchmarks/load.py --sessions 1000 --active 200 [--churn 0.1] [--processes 4] [--rounds 4] [--out load.json]

The first has real clients, each with its front, in threads. The second has sessions that say what a real client has
been recorded to say (light_client.py), so that the machine has room for a thousand; `active` of them take part in a
round, and `churn` of all break off and come back in every round, half of them to begin another conversation.

Reports the server's memory for each client that is connected and waits, and for each that trains; its threads; whether
it grows from round to round; and whether anyone starves: the steps of each client from metrics.jsonl, and the seconds
from the server's message to its answer. Where the body steps on all clients' batches together, the activations of that
step are most of the memory; where it takes one after the other, what is kept for each client is.
"""

import argparse
import atexit
import base64
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import torch
from authority import make_authority

from splitcom.client.client import Client
from splitcom.config import Config
from splitcom.data import Sample
from splitcom.parties.build import build_client
from splitcom.parties.parts import Parts, front_of, load_parts
from splitcom.parties.texts import load_texts
from splitcom.protocol.messages_pb2 import Message
from splitcom.simulation.clients import Clients
from splitcom.simulation.simulation import Simulation
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


def begin(command: Sequence[object], **streams: object) -> subprocess.Popen:
    """A process that does not outlive this one, whatever ends it."""
    process = subprocess.Popen(command, **streams)
    atexit.register(process.kill)
    return process


class Server:
    """A `splitcom serve` process: its log, and what the operating system says of it."""

    def __init__(self, config: Config, authority: Path, folder: Path) -> None:
        self.out = folder / "run"
        self._log = folder / "server.log"
        (folder / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        command = ["serve", folder / "config.toml", "--authority", authority, "--out", self.out]
        with self._log.open("w") as log:
            self.process = begin(
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
    authority = make_authority(folder / "authority", names)
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


def keeping_what_is_said(clients: Clients, name: str) -> list[Message]:
    """What one of these clients says from now on."""
    said: list[Message] = []
    make = clients.make

    def made(one: str, samples: Sequence[Sample], held_out: Sequence[Sample]) -> Client:
        client = make(one, samples, held_out)
        if one == name:
            connect, receive = client.connect, client.receive

            def recorded(data: bytes) -> bytes | None:
                answer = receive(data)
                if answer is not None:
                    said.append(Message.FromString(answer))
                return answer

            def hello() -> bytes:
                data = connect()
                said.append(Message.FromString(data))
                return data

            client.connect, client.receive = hello, recorded  # type: ignore[method-assign]
        return client

    clients.make = made  # type: ignore[method-assign]
    return said


def record(config: Config, folder: Path) -> dict[str, object]:
    """What a client of such a run says in each of its rounds and evaluations, as light_client.py takes it."""
    few = config.override(
        {"federation.clients": 2, "federation.sample": 1.0, "data.samples": 8, "data.held_out_samples": 2}
    )
    simulation = Simulation(few, load_texts(few), load_parts(few), folder)
    assert simulation.clients is not None
    said = keeping_what_is_said(simulation.clients, few.client_names[0])
    for _ in simulation.federation.run():
        pass
    simulation.close()
    visits: list[list[list[str]]] = [[]]
    evaluations: list[list[str]] = []
    found: dict[str, object] = {}
    for message in said:
        match message.WhichOneof("kind"):
            case "hello":
                found |= {"samples": message.hello.num_samples, "held_out": message.hello.num_held_out}
            case "activation":
                visits[-1].append(
                    [text_of(message.activation.activation), text_of(message.activation.labels)]
                )
            case "evaluation_batch":
                batch = message.evaluation_batch
                evaluations.append([text_of(batch.activation), text_of(batch.labels)])
            case "round_end":
                visits.append([])
                found["adapter"] = text_of(message.round_end.adapter)
    return found | {"visits": visits[:-1], "evaluations": evaluations, "fingerprint": simulation.fingerprint}


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sessions_config(sessions: int, active: int, rounds: int) -> Config:
    """A run of so many clients; adapters go up as fp16, since what is recorded must not build on others' rounds."""
    return Config().override(
        {
            "model.device": "cpu",
            "federation.clients": sessions,
            "federation.sample": active / sessions,
            "federation.max_restarts": None,
            "data.samples": 4 * sessions,
            "data.held_out_samples": sessions,
            "training.rounds": rounds,
            "training.batch_size": 4,
            "flows.activation_up.controller": None,
            "flows.adapter_up.codec": "fp16",
            "engine.max_tokens_per_pass": 4096,
            "evaluation.every": rounds,
            "evaluation.codec": "fp16",
            "evaluation.exact_last": False,
            "evaluation.generate": 0,
        }
    )


def measure_sessions(
    sessions: int, active: int, churn: float, num_processes: int, rounds: int, folder: Path
) -> dict[str, float]:
    """One run of light sessions."""
    config = sessions_config(sessions, active, rounds)
    names = config.client_names
    said = record(config, folder / "recorded")
    authority = make_authority(folder / "authority", names)
    server = Server(config, authority, folder)
    server.settle()
    bare_bytes = server.status("VmRSS")
    go, started = folder / "go", monotonic()
    fleets = []
    for index in range(num_processes):
        script = said | {
            "address": f"localhost:{server.port}",
            "authority": str(authority),
            "names": names[index::num_processes],
            "last": names[-1],
            "go": str(go),
            "ready": str(folder / f"ready-{index}"),
            "out": str(folder / f"measured-{index}.json"),
            "churn": churn,
        }
        path = folder / f"script-{index}.json"
        path.write_text(json.dumps(script), encoding="utf-8")
        command = [sys.executable, Path(__file__).with_name("light_client.py"), path]
        fleets.append(begin(command))
    server.wait_for(lambda: all((folder / f"ready-{index}").exists() for index in range(num_processes)))
    all_admitted_s = monotonic() - started
    server.settle()
    idle_bytes, idle_threads = server.status("VmRSS"), server.status("Threads")
    idle = {
        "sessions": sessions,
        "active in a round": active,
        "churn in a round": churn,
        "server, no client, MiB": bare_bytes / MIB,
        "per idle session, KiB": (idle_bytes - bare_bytes) / (sessions - 1) / 1024,
        "threads, all idle": idle_threads,
        "seconds until all are admitted": all_admitted_s,
    }
    show(idle)
    go.touch()
    active_bytes, threads = [], []
    while server.process.poll() is None:
        if any(fleet.poll() for fleet in fleets):
            raise SystemExit(f"a process of sessions has failed:\n{server.log[-3000:]}")
        try:
            threads.append(server.status("Threads"))
            active_bytes.append(server.status("VmRSS"))
            peak_bytes = server.status("VmHWM")
        except (OSError, IndexError):
            break
        sleep(0.2)
    seconds = monotonic() - started
    if server.process.wait() or any(fleet.wait() for fleet in fleets):
        raise SystemExit(f"the run has failed:\n{server.log[-3000:]}")
    trained = {
        "seconds": seconds,
        "per active session, KiB": (statistics.median(active_bytes) - idle_bytes) / active / 1024,
        "server at the peak, MiB": peak_bytes / MIB,
        "threads, at most": max(threads),
        **waits_of(fleets_measured(folder, num_processes), server),
    }
    show(trained)
    return idle | trained


def show(figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        print(f"{name:48} {value:12,.2f}", flush=True)


def fleets_measured(folder: Path, number: int) -> list[dict[str, object]]:
    return [json.loads((folder / f"measured-{index}.json").read_text()) for index in range(number)]


def waits_of(measured: list[dict[str, object]], server: Server) -> dict[str, float]:
    """What sessions have waited for, and whether one has starved: its steps against the server's lines."""
    admissions = [s for of in measured for s in of["admission_s"]]
    returns = [s for of in measured for s in of["returns_s"]]
    waits = {name: seconds for of in measured for name, seconds in of["wait_s"].items()}
    taken = {name: number for of in measured for name, number in of["steps"].items()}
    steps, _ = spread(server.out / "metrics.jsonl")
    means = sorted(statistics.mean(seconds) for seconds in waits.values())
    return {
        "seconds to admit one, median": statistics.median(admissions),
        "seconds to admit one, 99 of 100": quantile(admissions, 0.99),
        "seconds to admit one, most": max(admissions),
        "sessions that came back": len(returns),
        "seconds to come back, most": max(returns, default=0.0),
        "conversations the server has reset": sum(of["begun_anew"] for of in measured),
        "steps": sum(steps),
        "sessions that trained": len(waits),
        "steps that were not answered": sum(steps) - sum(taken.values()),
        "seconds for an answer, least client": means[0],
        "seconds for an answer, median": statistics.median(means),
        "seconds for an answer, most": means[-1],
    }


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


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
    parser.add_argument("--sessions", type=int, help="so many, without models")
    parser.add_argument("--active", type=int, default=200, help="of them in a round")
    parser.add_argument("--churn", type=float, default=0.0, help="the part of them that leaves and returns")
    arguments = parser.parse_args()
    if arguments.sessions:
        with tempfile.TemporaryDirectory() as folder:
            one = measure_sessions(
                arguments.sessions,
                arguments.active,
                arguments.churn,
                arguments.processes,
                arguments.rounds,
                Path(folder),
            )
        if arguments.out:
            content = {"cores": os.cpu_count(), "results": one}
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return
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
