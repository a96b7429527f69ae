"""What the network transport costs, over mutual TLS on loopback, with server and clients in processes of their own.

    python benchmarks/transport.py [--steps 40] [--rounds 7] [--out transport.json]

Round trip: a step with 4 MiB each way, against a bare gRPC echo of the same bytes, in one message, over the same TLS;
goal 1.3. Training: tokens per second of a whole run, against the same configuration in one process; goal 0.85. Both
take turns, step by step and round by round, and the median of the ratios of neighbours is what counts, since a shared
machine is noisy. What a run does between rounds (evaluation, checkpoints) is in neither.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import grpc
import torch
from authority import make_authority

from splitcom.config import Config
from splitcom.methods.join import JoinOptions, join
from splitcom.models import fingerprint
from splitcom.parties.build import build_server
from splitcom.parties.parts import load_parts, load_server_parts
from splitcom.parties.texts import Texts, load_texts
from splitcom.simulation.simulation import Simulation
from splitcom.transports import tls
from splitcom.transports.events import Received
from splitcom.transports.frames_pb2 import Description
from splitcom.transports.grpc import TRANSPORT_VERSION
from splitcom.transports.grpc_client import run_client
from splitcom.transports.grpc_server import GrpcServer

PAYLOAD = os.urandom(4 << 20)
ECHO = "/benchmark/Echo"
GOALS = {"round trip": 1.3, "training": 0.85}
_SPAWN = multiprocessing.get_context("spawn")
_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def transport_server(authority: Path, description: Description, max_clients: int) -> GrpcServer:
    identity = tls.load_server_identity(authority)
    return GrpcServer(
        "localhost:0", identity, tls.Revocations(authority), lambda name: description, max_clients
    )


def echo_servers(authority: Path, ports: Connection) -> None:
    """Answer with what comes, through the transport and through bare gRPC, until the client leaves."""
    identity = tls.load_server_identity(authority)
    credentials = grpc.ssl_server_credentials(
        [(identity.key, identity.certificate)], identity.authority, require_client_auth=True
    )
    bare = grpc.server(ThreadPoolExecutor(2), options=_UNLIMITED)
    handler = grpc.stream_stream_rpc_method_handler(lambda requests, context: requests)
    _, service, method = ECHO.split("/")
    bare.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    bare_port = bare.add_secure_port("localhost:0", credentials)
    bare.start()
    with transport_server(authority, Description(), 1) as server:
        ports.send((server.port, bare_port))
        while ports.poll(0) is False:
            event = server.receive(0.2)
            if isinstance(event, Received):
                server.send(event.client, event.data)
    bare.stop(None)


class StepPeer:
    """A client that sends 4 MiB and is sent as much; between two such steps, bare gRPC takes its turn."""

    def __init__(self, bare: Iterator[float], steps: int) -> None:
        self.finished = False
        self.pairs: list[tuple[float, float]] = []
        self._bare = bare
        self._steps = steps

    def connect(self) -> bytes:
        self._started = perf_counter()
        return PAYLOAD

    def receive(self, data: bytes) -> bytes | None:
        seconds = perf_counter() - self._started
        assert data == PAYLOAD
        self.pairs.append((seconds, next(self._bare)))
        self.finished = len(self.pairs) == self._steps
        self._started = perf_counter()
        return None if self.finished else PAYLOAD


def bare_steps(port: int, identity: tls.Identity) -> Iterator[float]:
    """Seconds of one echo after the other."""
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    with grpc.secure_channel(f"localhost:{port}", credentials, _UNLIMITED) as channel:
        turns = _SPAWN.SimpleQueue()
        call = channel.stream_stream(ECHO)(iter(turns.get, None))
        while True:
            started = perf_counter()
            turns.put(PAYLOAD)
            echo = next(call)
            seconds = perf_counter() - started
            assert echo == PAYLOAD
            yield seconds


def measure_round_trip(folder: Path, steps: int) -> dict[str, float]:
    authority = make_authority(folder, ["client-0"])
    identity = tls.load_identity(authority / "clients" / "client-0.pem")
    ports, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=echo_servers, args=(authority, theirs), daemon=True)
    process.start()
    port, bare_port = ports.recv()
    with closing(bare_steps(bare_port, identity)) as bare:
        peer = StepPeer(bare, steps + 1)
        run_client(f"localhost:{port}", identity, lambda: peer)
    ports.send("end")
    process.join()
    pairs = peer.pairs[1:]  # the first warms up
    return {
        "splitcom_ms": 1e3 * statistics.median(ours for ours, _ in pairs),
        "bare_ms": 1e3 * statistics.median(theirs for _, theirs in pairs),
        "ratio": statistics.median(ours / theirs for ours, theirs in pairs),
    }


def take_part(options: JoinOptions) -> None:
    torch.set_num_threads(1)
    join(options)


def write_rows(texts: Texts, config: Config, folder: Path) -> None:
    """Each client's rows of the run in one process, as a file of its own."""
    for index, name in enumerate(config.client_names):
        held_out = texts.held_out.samples[index :: config.federation.clients]
        for kind, samples in (("train", texts.partition.parts[index]), ("held-out", held_out)):
            rows = [json.dumps(dict(sample.row.columns)) for sample in samples]
            (folder / f"{name}-{kind}.jsonl").write_text("\n".join(rows), encoding="utf-8")


def network_rounds(config: Config, folder: Path) -> Iterator[None]:
    """The server in this process, every client in one of its own; they wait while nobody asks for a round."""
    authority = make_authority(folder / "authority", config.client_names)
    digest = fingerprint(config.model.source)
    description = Description(
        protocol_version=TRANSPORT_VERSION,
        run="0",
        config_toml=config.to_toml(),
        model_fingerprint=digest,
    )
    with ExitStack() as stack:
        server = stack.enter_context(transport_server(authority, description, config.federation.clients))
        for name in config.client_names:
            options = JoinOptions(
                f"localhost:{server.port}",
                folder / f"{name}-train.jsonl",
                authority / "clients" / f"{name}.pem",
                folder / f"{name}-state",
                folder / "cache",
                folder / f"{name}-held-out.jsonl",
                device="cpu",
            )
            process = _SPAWN.Process(target=take_part, args=(options,), daemon=True)
            process.start()
            stack.callback(process.join)
        federation = build_server(config, server, load_server_parts(config), digest, folder / "server")
        for _ in federation.run():
            yield
        server.close(30.0)


def local_rounds(config: Config, texts: Texts, folder: Path) -> Iterator[None]:
    for _ in Simulation(config, texts, load_parts(config), folder).federation.run():
        yield


def measure_training(folder: Path, clients: int, rounds: int) -> dict[str, float]:
    config = Config().override(
        {
            "model.device": "cpu",
            "federation.clients": clients,
            "data.samples": 48 * clients,
            "data.held_out_samples": clients,
            "training.rounds": rounds,
            "training.checkpoint_every": rounds,
            "evaluation.every": rounds,
            "evaluation.generate": 0,
        }
    )
    texts = load_texts(config)
    folder.mkdir()
    write_rows(texts, config, folder)
    loops = [network_rounds(config, folder), local_rounds(config, texts, folder / "local")]
    pairs = []
    for _ in range(rounds):  # the last one, with evaluation and checkpoint, is left out
        pairs.append([_timed(loop) for loop in loops])
    for loop in loops:
        for _ in loop:
            pass
    num_tokens = sum(sample.num_tokens for part in texts.partition.parts for sample in part)
    pairs = pairs[2:]  # evaluation before training, and a round that warms up
    return {
        "network_tokens_per_s": num_tokens / statistics.median(network for network, _ in pairs),
        "local_tokens_per_s": num_tokens / statistics.median(local for _, local in pairs),
        "ratio": statistics.median(local / network for network, local in pairs),
    }


def _timed(loop: Iterator[None]) -> float:
    started = perf_counter()
    next(loop)
    return perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trip = measure_round_trip(folder / "echo", arguments.steps)
        training = {
            clients: measure_training(folder / f"{clients}-clients", clients, arguments.rounds)
            for clients in (1, 3)
        }
    print(
        f"4 MiB each way: {trip['splitcom_ms']:.1f} ms, bare gRPC {trip['bare_ms']:.1f} ms: {trip['ratio']:.3f} x "
        f"(goal {GOALS['round trip']})"
    )
    for clients, figures in training.items():
        print(
            f"{clients} client{'s' * (clients > 1)}: {figures['network_tokens_per_s']:,.0f} tokens/s over loopback, "
            f"{figures['local_tokens_per_s']:,.0f} in process: {figures['ratio']:.3f} x (goal {GOALS['training']})"
        )
    if arguments.out:
        results = {"cores": os.cpu_count(), "goals": GOALS, "round trip": trip, "training": training}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
