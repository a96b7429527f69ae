"""Real processes over mutual TLS on loopback: the bits of the in-process run, crashes, and strangers."""

import json
import re
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from unittest import mock

import grpc
import pytest
from safetensors import safe_open

from splitcom.errors import IdentityError, RefusedError, RemoteProtocolError, SplitComError
from splitcom.methods.run import train
from splitcom.protocol.messages_pb2 import Hello, Message
from splitcom.protocol.session import PROTOCOL_VERSION
from splitcom.settings.presets import EVALUATION
from splitcom.transports import tls
from splitcom.transports.frames_pb2 import Frame, Open, Position
from splitcom.transports.framing import Parcel, pack, unpack
from splitcom.transports.grpc import SERVICE, TRANSPORT_VERSION, Timeouts
from splitcom.transports.grpc_calls import ServerCalls
from splitcom.transports.grpc_client import run_client

from .parties import PATIENCE_S, Deployment, fork_server, free_port, make_authority

TEMPORAL = {
    "flows.adapter_up.codec": "delta > topk(0.1) > int8 > zstd",
    "flows.adapter_down.codec": "delta > topk(0.1) > int8 > zstd",
    "flows.activation_up.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.gradient_down.codec": "delta > int8(rounding=stochastic)",
    "lora.dropout": 0.1,
}
U_SHAPE = {
    "model.tail_blocks": 1,
    "flows.activation_down.codec": "predict > klt(8) > uniform(0.5, prompt=2) > range",
    "flows.gradient_up.codec": "predict(window=0) > klt(8, centre=sum, along=2) > uniform(1) > range",
    "flows.activation_down.residual": True,
    "flows.gradient_down.residual": True,
}


@pytest.fixture(scope="module")
def forks():
    return fork_server()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def expected(tiny_config, trained):
    """The in-process run that the networked one must equal."""
    return trained(tiny_config.override(TEMPORAL))


def test_the_bits_are_those_of_the_run_in_one_process(forks, authority, tiny_config, tmp_path, expected):
    network = Deployment(forks, authority, tiny_config.override(TEMPORAL), tmp_path).start_server()
    parties = [client.start() for client in network.clients()]
    for party in (*parties, network.server):
        party.end()
    result = network.assert_same_run(expected)
    carried = re.findall(r"(client-\d): (\d+) bytes of messages up, (\d+) down", network.server.log)
    assert len(carried) == 3
    assert sum(int(up) + int(down) for _, up, down in carried) == result["bytes"]["total"]
    assert "run is over" in parties[0].log
    cached = list((tmp_path / "client-0-cache").glob("front-*/model.safetensors"))
    assert cached, "the front came from the server"
    texts = json.loads((tmp_path / "client-0-train.jsonl").read_text().splitlines()[0])
    assert texts["text"] not in network.server.log


def test_a_server_that_has_the_labels_guesses_what_its_clients_do(
    forks, authority, tiny_config, trained, tmp_path
):
    config = tiny_config.override({"preset": "quality", "evaluation.codec": EVALUATION})
    assert "guess=labels" in config.flows.codec("activation_up") and "guess=labels" in EVALUATION
    network = Deployment(forks, authority, config, tmp_path).start_server()
    parties = [client.start() for client in network.clients()]
    for party in (*parties, network.server):
        party.end()
    network.assert_same_run(trained(config))


def test_a_method_that_is_not_split_runs_too_and_a_run_that_has_ended_is_not_served_again(
    forks, authority, tiny_config, tmp_path
):
    config = tiny_config.override({"method": "fedlora"})
    expected = train(config, tmp_path / "in-process")
    network = Deployment(forks, authority, config, tmp_path).start_server()
    parties = [client.start() for client in network.clients("--model", config.model.source)]
    for party in (*parties, network.server):
        party.end()
    result = network.assert_same_run(expected)
    assert result["bytes"]["activation_up"] == 0 < result["bytes"]["adapter_up"]

    network.server.start().end()
    assert "this run has ended already; there is nothing left to serve" in network.server.log
    again = network.client(0, "--model", config.model.source, "--patience", 0.5).start()
    again.end()
    assert "the server is gone, and this client has trained and saved its last round" in again.log


def test_training_that_diverges_ends_the_run_with_the_remedy_at_all_parties(
    forks, authority, tiny_config, tmp_path
):
    wild = {"training.lr": 1e6, "training.clip_norm": 1e5, "federation.clients": 2}
    network = Deployment(forks, authority, tiny_config.override(wild), tmp_path).start_server()
    parties = [network.server, *(client.start() for client in network.clients())]
    for party in parties:
        party.end(code=1)
        assert "training has diverged: lower training.lr" in " ".join(party.log.split()), party.log
        assert "refused" not in party.log


def test_classes_over_a_network_give_the_bits_of_one_process(forks, authority, tiny_config, tmp_path):
    lines = [f"{'it was' * (index % 3)} {index} {'?!'[index % 2]}\t{index % 2}" for index in range(20)]
    (tmp_path / "texts.tsv").write_text("\n".join(["sentence\tlabel", *lines]))
    config = tiny_config.override(
        {
            **{"data.task": "classification", "data.labels": ["0", "1"], "training.rounds": 1},
            **{
                "data.source": str(tmp_path / "texts.tsv"),
                "data.prompt": "{sentence}",
                "data.response": "label",
            },
        }
    )
    network = Deployment(forks, authority, config, tmp_path).start_server()
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"sentence": "it", "label": "2"}')
    stranger = network.client(0, "--dry-run", "--data", foreign).start()
    stranger.wait_for("error: .*foreign.jsonl:1: unknown class '2' .*the run's classes are '0', '1'")
    parties = [client.start() for client in network.clients()]
    for party in (*parties, network.server):
        party.end()
    result = network.assert_same_run(train(config, tmp_path / "in-process"))
    assert 0 <= result["eval"]["accuracy"] <= 1
    assert "accuracy" in network.server.wait_for("round 1 of 1 is done.*")


@pytest.mark.parametrize("victim", ["client", "server"])
def test_a_killed_party_that_is_started_again_changes_no_bit(
    forks, authority, tiny_config, tmp_path, expected, victim
):
    network = Deployment(forks, authority, tiny_config.override(TEMPORAL), tmp_path, port=free_port())
    network.start_server()
    *others, last = network.clients()
    parties = [*(client.start() for client in others), last.start(hold=2)]
    last.wait_until_held()
    network.server.wait_for("round 1 of 2 is done")
    killed = network.server if victim == "server" else parties[1]
    killed.kill()
    killed.start()
    last.release()
    for party in (*parties, network.server):
        party.end()
    network.assert_same_run(expected)


def test_all_go_back_to_the_last_round_of_a_client_whose_disk_has_damaged_later_ones(
    forks, authority, tiny_config, tmp_path
):
    longer = {"training.rounds": 4, "training.keep_checkpoints": 3, "federation.clients": 2}
    config = tiny_config.override(TEMPORAL | longer)
    expected = train(config, tmp_path / "in-process")
    network = Deployment(forks, authority, config, tmp_path, port=free_port()).start_server()
    other, last = network.clients()
    parties = [other.start(hold=4), last.start()]
    other.wait_until_held()
    network.server.wait_for("round 3 of 4 is done")
    for party in (network.server, parties[1]):
        party.kill()
    states = sorted(network.state_of(1).glob("*/*/round-*"))
    for damaged in states[1:]:
        content = bytearray((damaged / "state.safetensors").read_bytes())
        content[-1] ^= 1
        (damaged / "state.safetensors").write_bytes(content)
    network.server.start()
    parties[1].start()
    other.release()
    round_index = int(states[0].name.removeprefix("round-"))
    network.server.wait_for(
        rf"client-1: no whole state of round \d; everybody goes back to round {round_index}, which"
    )
    for party in (*parties, network.server):
        party.end()
    assert len(states) == 3 and round_index == 1
    assert not network.assert_same_run(expected)["warnings"]


@pytest.mark.parametrize("victim", ["client", "server"])
def test_the_u_shape_has_the_same_bits_also_where_a_party_is_killed(
    forks, authority, tiny_config, trained, tmp_path, victim
):
    config = tiny_config.override(TEMPORAL | U_SHAPE)
    expected = trained(config)
    network = Deployment(forks, authority, config, tmp_path, port=free_port()).start_server()
    *others, last = network.clients()
    parties = [*(client.start() for client in others), last.start(hold=2)]
    last.wait_until_held()
    network.server.wait_for("round 1 of 2 is done")
    killed = network.server if victim == "server" else parties[1]
    killed.kill()
    killed.start()
    last.release()
    for party in (*parties, network.server):
        party.end()
    result = network.assert_same_run(expected)
    assert result["bytes"]["labels_up"] == 0 < result["bytes"]["activation_down"]
    (sent,) = (tmp_path / "client-0-cache").glob("front-*/model.safetensors")
    with safe_open(sent, framework="pt") as tensors:
        blocks = {match[1] for name in tensors.keys() if (match := re.search(r"layers\.(\d)", name))}  # noqa: SIM118
        assert blocks == {"0", "1", "3"}, "the server has sent front and tail, and no block of the body"


def test_strangers_are_told_why_and_disturb_nobody(forks, authority, tiny_config, tmp_path, expected):
    network = Deployment(forks, authority, tiny_config.override(TEMPORAL), tmp_path).start_server()
    clients = network.clients()
    running = [client.start() for client in clients[:2]]
    for name in ("client-0", "client-1"):
        network.server.wait_for(f"{name} is connected")
    address, server = f"localhost:{network.port}", network.server
    mine = tls.load_identity(authority / "clients" / "client-2.pem")
    impatient = Timeouts(connect_s=PATIENCE_S, give_up_s=PATIENCE_S)

    def refused(identity, reason):
        with pytest.raises(RefusedError, match=reason), ServerCalls(address, identity, impatient) as calls:
            calls.describe()

    # no certificate
    credentials = grpc.ssl_channel_credentials(mine.authority)
    with grpc.secure_channel(address, credentials) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Describe")
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=PATIENCE_S)
    server.wait_for("PEER_DID_NOT_RETURN_A_CERTIFICATE")
    # of another authority, which does not believe the server either; and one that believes it
    tls.create_authority(tmp_path / "other")
    other = tls.load_identity(tls.issue_client(tmp_path / "other", "client-2"))
    refused(other, "the server's certificate is not accepted: unable to get local issuer certificate")
    refused(
        replace(other, authority=mine.authority),
        "does not accept the certificate of client-2.* of another authority",
    )
    server.wait_for("CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate")
    # expired: the client notices itself; a server's clock may be ahead
    old = expired(authority, tmp_path)
    with pytest.raises(IdentityError, match=r"client-2'? is valid from .* to .* have a new one issued"):
        tls.load_identity(old)
    certificates = PEM.findall(old.read_text())
    refused(tls.Identity(*(part.encode() for part in certificates)), "expired or not yet valid")
    server.wait_for("CERTIFICATE_VERIFY_FAILED: certificate has expired")
    # revoked
    revoked = tls.load_identity(tls.issue_client(authority, "revoked"))
    with ServerCalls(address, revoked, impatient) as calls:
        calls.describe()
    tls.revoke(authority, "revoked")
    refused(revoked, "the certificate of revoked has been revoked")
    server.wait_for("revoked, from .*, is refused: the certificate of revoked has been revoked")
    # an old version, and another base model
    with grpc.secure_channel(address, credentials_of(mine)) as channel:
        converse = channel.stream_stream(f"/{SERVICE}/Converse")
        opening = Open(protocol_version=0, conversation=bytes(16), position=Position())
        (answer,) = converse(iter([pack(Parcel(Frame(open=opening)))]), timeout=PATIENCE_S)
    assert (
        f"the protocol version is 0, the server's {TRANSPORT_VERSION}" in unpack(answer).frame.refused.reason
    )
    server.wait_for("client-2, from .*, is refused: the protocol version is 0")
    other_model = network.client(2, "--model", "bundled", "--dry-run").start()
    other_model.wait_for("error: the server has refused client-2: another base model: its fingerprint is")
    server.wait_for("client-2, from .*, is refused: another base model")
    # a second session, and one more client than there is room for
    second = network.client(0, "--state", tmp_path / "elsewhere").start()
    second.wait_for("error: the server has refused client-0: client-0 is connected already")
    server.wait_for("client-0, from .*, is refused: client-0 is connected already")
    # under another's name
    with pytest.raises(SplitComError, match="client name is client-0, the server's is client-2"):
        run_client(address, mine, lambda: Impostor("client-0", network.fingerprint), impatient)
    server.wait_for("client-2 is refused: client name is client-0")

    dry = network.client(2, "--dry-run").start()
    dry.end()
    assert re.search(r"round trip +[\d.]+ ms", dry.log)
    for party in (*running, clients[2].start(), server):
        party.end()
    assert not re.search("refused|again", running[1].log)
    network.assert_same_run(expected)


class Impostor:
    """Says hello under a name that is not its certificate's."""

    finished = False

    def __init__(self, name, fingerprint):
        self._hello = Hello(protocol_version=PROTOCOL_VERSION, client=name, model_fingerprint=fingerprint)

    def connect(self):
        return Message(hello=self._hello).SerializeToString()

    def receive(self, data):
        raise RemoteProtocolError(Message.FromString(data).failure.reason)  # as a client does


PEM = re.compile(r"-----BEGIN.*?-----END [A-Z ]+-----\n", re.DOTALL)


def expired(authority, folder):
    """A bundle of the authority's whose certificate was valid a hundred days ago."""
    copy = folder / "past"
    shutil.copytree(authority, copy)
    shutil.rmtree(copy / "clients")
    (copy / "issued.json").unlink()

    class Past(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=100)

    with mock.patch.object(tls, "datetime", Past):
        return tls.issue_client(copy, "client-2", days=10)


def credentials_of(identity):
    return grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
