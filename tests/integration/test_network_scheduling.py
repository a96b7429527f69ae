"""A deadline and asynchronous rounds over gRPC, with one client that is late: nobody waits for it, and all end well.

It is late because it waits for the others, not because it is slow, so that it is late on every machine.
"""

import itertools
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
from splitcom.protocol.messages_pb2 import Message
from splitcom.scheduling.asynchronous import Asynchronous
from splitcom.scheduling.deadline import Deadline
from splitcom.transports import tls
from splitcom.transports.frames_pb2 import Description
from splitcom.transports.grpc import TRANSPORT_VERSION
from splitcom.transports.grpc_client import run_client
from splitcom.transports.grpc_server import GrpcServer

LATE = "client-2"
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority")
    tls.create_authority(folder)
    tls.issue_server(folder, ["localhost", "127.0.0.1"])
    for index in range(3):
        tls.issue_client(folder, f"client-{index}")
    return folder


class Gate:
    """LATE keeps a message of this kind back until training is over; the others begin no second round before it has."""

    def __init__(self, kind):
        self.kind, self.has_come, self.is_over = kind, threading.Event(), threading.Event()

    def through(self, name, client):
        """A client that heeds the gate."""
        receive, begun = client.receive, itertools.count(1)

        def gated(data):
            kind = Message.FromString(data).WhichOneof("kind")
            if name == LATE and kind == self.kind:
                self.has_come.set()
                assert self.is_over.wait(PATIENCE_S)
            elif name != LATE and kind == "round_start" and next(begun) == 2:
                assert self.has_come.wait(PATIENCE_S)
            return receive(data)

        client.receive = gated
        return client

    def until_settled(self, scheduling, monkeypatch):
        """Have the gate opened when no round is left to train."""
        settle = scheduling.settle

        def settled(run, round_index, *, is_last):
            self.is_over.set()
            settle(run, round_index, is_last=is_last)

        monkeypatch.setattr(scheduling, "settle", settled)


def run_over_network(config, authority, folder, gate):
    """The lines of a run whose server and clients are threads of this process; and the clients' failures."""
    texts, parts, digest = load_texts(config), load_parts(config), fingerprint(config.model.source)
    failures = []

    def run(name, index, port):
        def make_peer():
            train, held_out = texts.partition.parts[index], texts.held_out.samples[index::3]
            client = build_client(name, config, parts, train, held_out, digest, folder / name)
            return gate.through(name, client)

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
                lambda name: Description(protocol_version=TRANSPORT_VERSION, model_fingerprint=digest),
                max_clients=3,
            )
        )
        threads = [
            threading.Thread(target=run, args=(name, index, server.port))
            for index, name in enumerate(config.client_names)
        ]
        for thread in threads:
            thread.start()
        federation = build_server(config, server, parts, digest, folder / "server")
        with closing(federation):
            run_rounds(federation, Record(run_folder))
        server.close(PATIENCE_S)
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
    assert not failures
    lines = [json.loads(line) for line in (run_folder.path / "metrics.jsonl").read_text().splitlines()]
    return federation, {
        name: [line for line in lines if line["client"] == name] for name in config.client_names
    }


SPARSE = {
    "training.rounds": 4,
    "evaluation.every": 4,
    "training.checkpoint_every": 4,
    "evaluation.batch_size": 8,
}


def counted(lines, what):
    return {name: sum(line[what] for line in own) for name, own in lines.items()}


def test_a_deadline_leaves_a_late_client_behind(tiny_config, authority, tmp_path, monkeypatch):
    config = tiny_config.override(SPARSE | {"federation.deadline_s": 0.01, "federation.min_clients": 2})
    gate = Gate("round_start")
    gate.until_settled(Deadline, monkeypatch)
    federation, lines = run_over_network(config, authority, tmp_path, gate)
    assert counted(lines, "updates") == {"client-0": 4, "client-1": 4, LATE: 0}
    assert federation.eval_losses[4] < federation.eval_losses[0]


def test_asynchronous_rounds_go_on_while_a_late_client_trains(tiny_config, authority, tmp_path, monkeypatch):
    config = tiny_config.override(SPARSE | {"federation.scheduling": "asynchronous"})
    gate = Gate("gradient")
    gate.until_settled(Asynchronous, monkeypatch)
    federation, lines = run_over_network(config, authority, tmp_path, gate)
    updates, steps = counted(lines, "updates"), counted(lines, "steps")
    assert sum(updates.values()) >= 12 and updates[LATE] == 0
    assert steps[LATE] == 1 and steps["client-0"] + steps["client-1"] >= 12
    assert federation.eval_losses[4] < federation.eval_losses[0]
