"""A deadline and asynchronous rounds over gRPC, with one client far away: nobody waits for it, and all end well."""

import json
import threading
from contextlib import ExitStack, closing

import pytest

from splitcom.methods.record import Record
from splitcom.methods.run import run_rounds
from splitcom.metrics.record import RunFolder
from splitcom.models import fingerprint
from splitcom.parties.build import build_client, build_server
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.transports import tls
from splitcom.transports.frames_pb2 import Description
from splitcom.transports.grpc import TRANSPORT_VERSION
from splitcom.transports.grpc_client import run_client
from splitcom.transports.grpc_server import GrpcServer

from ..faults.proxy import Proxy

LATENCY_S = 0.25  # many times a step of the tiny model
FAR = "client-2"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority")
    tls.create_authority(folder)
    tls.issue_server(folder, ["localhost", "127.0.0.1"])
    for index in range(3):
        tls.issue_client(folder, f"client-{index}")
    return folder


def run_over_network(config, authority, folder):
    """The lines of a run whose server and clients are threads of this process; and the clients' failures."""
    texts, parts, digest = load_texts(config), load_parts(config), fingerprint(config.model.source)
    failures = []

    def run(name, index, port):
        def make_peer():
            train, held_out = texts.partition.parts[index], texts.held_out.samples[index::3]
            return build_client(name, config, parts, train, held_out, digest, folder / name)

        identity = tls.load_identity(authority / "clients" / f"{name}.pem")
        try:
            run_client(f"localhost:{port}", identity, make_peer)
        except Exception as error:
            failures.append(error)

    run_folder = RunFolder(folder / "run")
    run_folder.begin(config.to_toml())
    with ExitStack() as stack:
        server = stack.enter_context(
            GrpcServer(
                "localhost:0",
                tls.load_server_identity(authority),
                tls.Revocations(authority),
                Description(protocol_version=TRANSPORT_VERSION, model_fingerprint=digest),
                max_clients=3,
            )
        )
        proxy = stack.enter_context(Proxy(("localhost", server.port)))
        proxy.latency_s = LATENCY_S
        ports = {name: proxy.address[1] if name == FAR else server.port for name in config.client_names}
        threads = [
            threading.Thread(target=run, args=(name, index, ports[name]))
            for index, name in enumerate(config.client_names)
        ]
        for thread in threads:
            thread.start()
        federation = build_server(config, server, parts, digest, folder / "server")
        with closing(federation):
            run_rounds(federation, Record(run_folder))
        server.close(30.0)
        for thread in threads:
            thread.join(30.0)
            assert not thread.is_alive()
    assert not failures
    lines = [json.loads(line) for line in (run_folder.path / "metrics.jsonl").read_text().splitlines()]
    return federation, {name: [line for line in lines if line["client"] == name] for name in ports}


SPARSE = {
    "training.rounds": 4,
    "evaluation.every": 4,
    "training.checkpoint_every": 4,
    "evaluation.batch_size": 8,
}


def test_a_deadline_leaves_the_far_client_behind(tiny_config, authority, tmp_path):
    config = tiny_config.override(SPARSE | {"federation.deadline_s": 0.01, "federation.min_clients": 2})
    federation, lines = run_over_network(config, authority, tmp_path)
    updates = {name: sum(line["updates"] for line in own) for name, own in lines.items()}
    assert updates == {"client-0": 4, "client-1": 4, FAR: 0}
    assert federation.eval_losses[4] < federation.eval_losses[0]


def test_asynchronous_rounds_go_on_while_the_far_client_trains(tiny_config, authority, tmp_path):
    config = tiny_config.override(SPARSE | {"federation.scheduling": "asynchronous"})
    federation, lines = run_over_network(config, authority, tmp_path)
    updates = {name: sum(line["updates"] for line in own) for name, own in lines.items()}
    steps = {name: sum(line["steps"] for line in own) for name, own in lines.items()}
    assert sum(updates.values()) >= 12 and updates[FAR] < min(updates["client-0"], updates["client-1"])
    assert 0 < steps[FAR] < min(steps["client-0"], steps["client-1"])
    assert federation.eval_losses[4] < federation.eval_losses[0]
