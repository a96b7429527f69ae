"""Server and client in this process: reconnections through a proxy that cuts, resets, refusals, calls."""

import ast
import logging
import re
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

import splitcom
from splitcom.errors import IdentityError, RefusedError, RemoteProtocolError, TransportError
from splitcom.protocol.messages_pb2 import Message
from splitcom.transports import tls
from splitcom.transports.endpoint import Limits
from splitcom.transports.events import Back, Gone, Joined, Received
from splitcom.transports.frames_pb2 import Description, Frame, Open, Position, Refused
from splitcom.transports.framing import Parcel, pack, unpack
from splitcom.transports.grpc import SERVICE, TRANSPORT_VERSION, Timeouts
from splitcom.transports.grpc_calls import ServerCalls
from splitcom.transports.grpc_client import run_client
from splitcom.transports.grpc_server import GrpcServer

HASTY = Timeouts(connect_s=60.0, pause_s=0.2, give_up_s=60.0)
LIMITS = Limits(chunk_bytes=1 << 14, window_bytes=1 << 16, message_bytes=1 << 22)
WAIT_S = 120.0  # never used up where all is well
ANY_FRONT = (1 << 30, lambda folder, size: None)  # as large as it is, and whatever it is


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority")
    tls.create_authority(folder)
    tls.issue_server(folder, ["localhost"])
    for name in "abc":
        tls.issue_client(folder, name)
    return folder


@pytest.fixture
def serve(authority):
    """Start servers that end with the test."""
    with ExitStack() as stack:

        def start(**options):
            options = {
                "max_clients": 2,
                "limits": LIMITS,
                "timeouts": HASTY,
                "address": "localhost:0",
            } | options
            return stack.enter_context(
                GrpcServer(
                    options.pop("address"),
                    tls.load_server_identity(authority),
                    tls.Revocations(authority),
                    lambda name: Description(protocol_version=TRANSPORT_VERSION, model_fingerprint="f" * 64),
                    **options,
                )
            )

        yield start


@pytest.fixture
def join(authority):
    """Run clients in threads; what they end with is their outcome."""
    threads = []

    def start(port, name="a", make_peer=None, timeouts=HASTY):
        client = Client(port, tls.load_identity(authority / "clients" / f"{name}.pem"), make_peer, timeouts)
        threads.append(client)
        return client

    yield start
    for client in threads:
        client.join(WAIT_S)
        assert not client.is_alive()


@pytest.fixture
def through_proxy():
    """Start proxies that end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(closing(Proxy(*arguments)))


class Echo:
    """Says hello, sends back what it gets, and is finished by b"end"."""

    def __init__(self):
        self.finished = False

    def connect(self):
        return b"hello"

    def receive(self, data):
        self.finished = data == b"end"
        return None if self.finished else data


class Client(threading.Thread):
    def __init__(self, port, identity, make_peer, timeouts):
        super().__init__()
        self.outcome = None
        self._arguments = (f"localhost:{port}", identity, make_peer or Echo, timeouts, LIMITS)
        self.start()

    def run(self):
        try:
            run_client(*self._arguments)
        except Exception as error:
            self.outcome = error


def expect(server, *events):
    for event in events:
        assert server.receive(WAIT_S) == event


def test_messages_go_there_and_back(serve, join):
    server = serve()
    join(server.port)
    expect(server, Joined("a"), Received("a", b"hello"))
    big = bytes(range(256)) * 4000  # many windows
    for data in (b"", b"x", big):
        server.send("a", data)
        expect(server, Received("a", data))
    seconds = server.take_seconds("a")
    assert 0 < seconds["client"] <= seconds["virtual"]
    assert server.take_seconds("a")["client"] == 0
    server.send("a", b"end")
    server.close(WAIT_S)
    traffic = server.traffic()["a"]
    assert traffic.answer_s == seconds["client"]  # what has been told of it is still counted
    assert traffic.unread == traffic.unacknowledged == 0
    assert (traffic.up_bytes, traffic.down_bytes) == (
        len(b"hello") + 1 + len(big),
        1 + len(big) + len(b"end"),
    )


class Proxy:
    """Between client and server; cuts every connection after so many bytes in either direction."""

    def __init__(self, port, cut_after):
        self._target = port
        self._cut_after = cut_after
        self._frozen = 0  # connections up to this number pass nothing on
        self._sockets = []
        self._threads = []
        self.connections = 0
        self._listener = socket.create_server(("localhost", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    def freeze(self):
        """Let the present connections live, but pass nothing on."""
        self._frozen = self.connections

    def close(self):
        for end in (self._listener, *self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
        for end in (self._listener, *self._sockets):
            end.close()

    def _start(self, target, *arguments):
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                far = socket.create_connection(("localhost", self._target))
                self._sockets.append(far)
                self.connections += 1
                self._start(self._pump, near, far, self.connections)
                self._start(self._pump, far, near, self.connections)

    def _pump(self, source, sink, number):
        left = self._cut_after
        with suppress(OSError):
            while left > 0 and (data := source.recv(min(left, 1 << 14))):
                if number > self._frozen:
                    sink.sendall(data)
                left -= len(data)
        if number <= self._frozen:
            return
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_is_cut_again_and_again_loses_nothing_and_repeats_nothing(
    serve, join, through_proxy
):
    server = serve()
    proxy = through_proxy(server.port, 100_000)
    join(proxy.port)
    messages = [bytes([index]) * 150_000 for index in range(8)]
    answers, told = [], [Back("a")]
    expect(server, Joined("a"), Received("a", b"hello"))
    for message in messages:
        server.send("a", message)
        while not isinstance(event := server.receive(WAIT_S), Received):
            told.append(event)
        assert told[-1] == Back("a"), "who sends is not gone"
        answers.append(event.data)
    assert set(told) == {Back("a"), Gone("a")}
    server.send("a", b"end")
    server.close(WAIT_S)
    assert answers == messages
    assert proxy.connections > 8
    assert server.traffic()["a"].reconnections > 8


def test_a_reset_begins_a_new_conversation_with_a_new_peer(serve, join):
    server = serve()
    peers = []
    join(server.port, make_peer=lambda: peers.append(Echo()) or peers[-1])
    expect(server, Joined("a"), Received("a", b"hello"))
    server.send("a", b"lost")
    server.reset("a")
    expect(server, Joined("a"))
    while server.traffic()["a"].unread != 1:  # the hello, which nobody has taken
        time.sleep(0.01)
    expect(server, Received("a", b"hello"))
    server.send("a", b"end")
    server.close(WAIT_S)
    assert [peer.finished for peer in peers] == [False, True]


def test_what_is_meant_for_the_conversation_before_never_reaches_the_next(serve, join, authority):
    server = serve()
    failing = join(server.port, make_peer=Broken, timeouts=replace(HASTY, connect_s=0.5))
    expect(server, Joined("a"), Received("a", b"hello"))
    server.send("a", b"fail")
    failing.join(WAIT_S)
    again = join(server.port)
    while server.waiting_events < 4:  # failure, gone, joined, hello: none of it taken
        assert again.is_alive()
    server.send("a", b"of the conversation before")
    seen = [server.receive(WAIT_S) for _ in range(2)]
    assert seen == [Joined("a"), Received("a", b"hello")]
    server.send("a", b"end")
    server.close(WAIT_S)
    assert again.outcome is None


class Broken(Echo):
    def receive(self, data):
        raise RemoteProtocolError("this cannot be")


def test_a_client_that_fails_tells_the_server_why(serve, join):
    server = serve()
    client = join(server.port, make_peer=Broken)
    expect(server, Joined("a"), Received("a", b"hello"))
    server.send("a", b"fail")
    event = server.receive(WAIT_S)
    assert Message.FromString(event.data).failure.reason == "this cannot be"
    assert str(client_outcome(client)) == "this cannot be"


def client_outcome(client):
    client.join(WAIT_S)
    return client.outcome


def test_a_refused_client_is_told_why_also_when_it_comes_back(serve, join, caplog):
    server = serve()
    client = join(server.port)
    expect(server, Joined("a"), Received("a", b"hello"))
    with caplog.at_level(logging.WARNING, "splitcom"):
        server.refuse("a", "for a reason")
    assert isinstance(client_outcome(client), RefusedError)
    assert "the server has refused a: for a reason" in str(client.outcome)
    assert "a is refused: for a reason (REJECTED)" in caplog.text


def test_a_second_session_and_one_client_too_many_are_refused_and_the_others_go_on(serve, join):
    server = serve()
    join(server.port, "a"), join(server.port, "b")
    for _ in range(4):
        server.receive(WAIT_S)
    assert "a is connected already" in str(client_outcome(join(server.port, "a")))
    assert "the run has its 2 clients" in str(client_outcome(join(server.port, "c")))
    for name in "ab":
        server.send(name, b"still here")
        expect(server, Received(name, b"still here"))
    for name in "ab":
        server.send(name, b"end")
    server.close(WAIT_S)


def test_who_connects_and_says_nothing_gives_way_to_who_comes(serve, join, authority, caplog):
    server = serve(max_clients=1)
    identity = tls.load_identity(authority / "clients" / "a.pem")
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    first = opening(conversation=bytes(16), position=Position(window_bytes=1 << 16))
    with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        done = threading.Event()

        def frames():
            yield first
            done.wait(WAIT_S)

        call = channel.stream_stream(f"/{SERVICE}/Converse")(frames(), timeout=WAIT_S)
        expect(server, Joined("a"))
        assert "the run has its 1 client" in str(client_outcome(join(server.port, "b")))
        server._timeouts = replace(HASTY, connect_s=0.0)  # by now it has been silent for too long
        honest = join(server.port, "b")
        assert [unpack(frame).frame.WhichOneof("kind") for frame in call] == ["opened", "reset"]
        done.set()
    assert {server.receive(WAIT_S) for _ in range(3)} == {Gone("a"), Joined("b"), Received("b", b"hello")}
    server.send("b", b"end")
    server.close(WAIT_S)
    assert (
        honest.outcome is None and "a has said nothing since it connected: b takes its place" in caplog.text
    )


@pytest.mark.parametrize("method", ["Converse", "Describe", "Probe", "FrontFiles", "Front"])
def test_calls_that_say_nothing_end_one_another(serve, authority, method):
    server = serve(timeouts=replace(HASTY, connect_s=60.0))
    identity = tls.load_identity(authority / "clients" / "a.pem")
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    done = threading.Event()

    def nothing():
        done.wait(WAIT_S)
        yield from ()

    with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        call = channel.stream_stream(f"/{SERVICE}/{method}")
        calls = [call(nothing(), timeout=WAIT_S) for _ in range(8)]
        deadline = time.monotonic() + WAIT_S
        while len(ended := [one for one in calls if not one.is_active()]) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len(ended) == 4 and all(one.code() is grpc.StatusCode.CANCELLED for one in ended)
        with ServerCalls(f"localhost:{server.port}", identity, HASTY) as others:
            others.describe()
        done.set()


def test_who_may_take_no_part_is_told_why_also_in_the_middle(serve, join, authority):
    barred = {"b": "b is none of this run's clients"}
    server = serve(barred=barred.get)
    assert "b is none of this run's clients" in str(client_outcome(join(server.port, "b")))
    with (
        ServerCalls(
            f"localhost:{server.port}", tls.load_identity(authority / "clients" / "b.pem"), HASTY
        ) as calls,
        pytest.raises(RefusedError, match="b is none of this run's clients"),
    ):
        calls.describe()
    client = join(server.port, "a")
    expect(server, Joined("a"), Received("a", b"hello"))
    barred["a"] = "its machine has been stolen"
    server.send("a", b"more")
    assert "its machine has been stolen" in str(client_outcome(client))
    expect(server, Gone("a"))


def test_many_clients_at_once_are_all_served(serve, join, authority):
    names = [f"many-{index}" for index in range(24)]
    for name in names:
        tls.issue_client(authority, name)
    server = serve(max_clients=len(names))
    for name in names:
        join(server.port, name)
    answers = {name: [] for name in names}
    while any(len(got) < 6 for got in answers.values()):
        event = server.receive(WAIT_S)
        if isinstance(event, Received):
            answers[event.client].append(event.data)
            number = len(answers[event.client])
            server.send(event.client, f"{event.client} {number}".encode() if number < 6 else b"end")
    server.close(WAIT_S)
    for name, got in answers.items():
        assert got == [b"hello", *(f"{name} {number}".encode() for number in range(1, 6))]
    assert all(traffic.reconnections == 0 for traffic in server.traffic().values())


def test_a_client_that_is_revoked_in_the_middle_is_refused(serve, join, authority):
    tls.issue_client(authority, "leaving")
    server = serve()
    client = join(server.port, "leaving")
    expect(server, Joined("leaving"), Received("leaving", b"hello"))
    tls.revoke(authority, "leaving")
    server.send("leaving", b"more")
    assert "has been revoked" in str(client_outcome(client))


def test_a_server_that_does_not_know_the_conversation_asks_for_a_new_one(serve, join):
    first = serve()
    peers = []
    join(first.port, make_peer=lambda: peers.append(Echo()) or peers[-1])
    expect(first, Joined("a"), Received("a", b"hello"))
    first.close()
    second = serve(address=f"localhost:{first.port}")
    expect(second, Joined("a"), Received("a", b"hello"))
    second.send("a", b"end")
    second.close(WAIT_S)
    assert len(peers) == 2


def test_patience_ends(join, authority):
    hasty = Timeouts(connect_s=1.0, pause_s=0.1, give_up_s=0.3)
    with socket.socket() as reserved:  # bound and not listened at, so that nobody else takes the port
        reserved.bind(("localhost", 0))
        port = reserved.getsockname()[1]
        outcome = client_outcome(join(port, timeouts=hasty))
    assert isinstance(outcome, TransportError) and not isinstance(outcome, RefusedError)
    assert f"localhost:{port}: not reached for" in str(outcome)


def opening(**fields):
    return pack(Parcel(Frame(open=Open(protocol_version=TRANSPORT_VERSION, **fields))))


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"not a frame",
        opening(conversation=b"short"),
        opening(conversation=bytes(16), position=Position(sequence=1)),
    ],
)
def test_a_connection_that_begins_wrongly_is_refused(serve, authority, first):
    server = serve()
    identity = tls.load_identity(authority / "clients" / "a.pem")
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        call = channel.stream_stream(f"/{SERVICE}/Converse")
        (answer,) = call(iter([first]), timeout=WAIT_S)
    assert unpack(answer).frame.refused.code == Refused.MALFORMED


def test_the_front_is_fetched_once_and_whole(serve, authority, tmp_path):
    folder = tmp_path / "front"
    folder.mkdir()
    contents = {"config.json": b"{}", "model.safetensors": bytes(3 << 20), "tokenizer.json": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    server = serve(front=lambda name: folder)
    identity = tls.load_identity(authority / "clients" / "a.pem")
    with ServerCalls(f"localhost:{server.port}", identity, HASTY) as calls:
        cached = calls.fetch_front(tmp_path / "cache", *ANY_FRONT)
        assert {path.name: path.read_bytes() for path in cached.iterdir()} == contents
        assert list(cached.parent.iterdir()) == [cached]
        written = {path: path.stat().st_mtime_ns for path in cached.iterdir()}
        assert calls.fetch_front(tmp_path / "cache", *ANY_FRONT) == cached
        assert {path: path.stat().st_mtime_ns for path in cached.iterdir()} == written


@pytest.mark.parametrize("name", ["evil.py", ".hidden.json", "config.json.pkl"])
def test_files_that_are_no_model_are_not_written(serve, authority, tmp_path, name):
    folder = tmp_path / "front"
    folder.mkdir()
    for file in ("config.json", "model.safetensors", name):
        (folder / file).write_bytes(b"x")
    server = serve(front=lambda name: folder)
    identity = tls.load_identity(authority / "clients" / "a.pem")
    with (
        ServerCalls(f"localhost:{server.port}", identity, HASTY) as calls,
        pytest.raises(RemoteProtocolError, match="no part of a front"),
    ):
        calls.fetch_front(tmp_path / "cache", *ANY_FRONT)
    assert not (tmp_path / "cache").exists()


def test_a_link_is_measured_and_another_model_refused(serve, authority, tmp_path):
    server = serve()
    identity = tls.load_identity(authority / "clients" / "a.pem")
    with ServerCalls(f"localhost:{server.port}", identity, HASTY) as calls:
        link = calls.measure()
        assert 0 < link.round_trip_s < 1 < link.up_bps and link.down_bps > 1
        calls.describe("f" * 64)
        with pytest.raises(RefusedError, match="another base model: its fingerprint is 0000"):
            calls.describe("0" * 64)
        with pytest.raises(RefusedError, match="gives no weights away"):
            calls.fetch_front(tmp_path / "front", *ANY_FRONT)


def test_a_connection_that_has_gone_silent_is_given_up_and_taken_over(serve, join, through_proxy):
    quick = replace(HASTY, probe_s=0.2, silence_s=0.3)
    server = serve()  # which would notice much later
    proxy = through_proxy(server.port, 1 << 30)
    join(proxy.port, timeouts=quick)
    expect(server, Joined("a"), Received("a", b"hello"))
    proxy.freeze()
    server.send("a", b"into the void")
    told = []
    while not isinstance(event := server.receive(WAIT_S), Received):
        told.append(event)
    assert event.data == b"into the void" and Back("a") in told
    if server.traffic()["a"].reconnections == 1:  # on a busy machine there may be more
        assert told == [Back("a")]  # superseded, so it was never gone
    server.send("a", b"end")
    server.close(WAIT_S)


def test_whatever_ends_a_thread_of_the_server_reaches_whoever_waits(serve, join, monkeypatch):
    server = serve()
    join(server.port, timeouts=replace(HASTY, give_up_s=0.2))
    expect(server, Joined("a"), Received("a", b"hello"))
    monkeypatch.setattr(server._admission, "check", lambda *arguments: 1 / 0)
    server.send("a", b"x")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            for _ in range(3):  # that the client is gone may come first
                server.receive(WAIT_S)
    server.close()


def test_whatever_ends_the_server_s_sending_reaches_whoever_waits(serve, join, monkeypatch):
    server = serve()
    monkeypatch.setattr("splitcom.transports.grpc_server.Opened", lambda **fields: 1 / 0)
    client = join(server.port, timeouts=replace(HASTY, give_up_s=0.2))
    expect(server, Joined("a"))
    with pytest.raises(ZeroDivisionError):
        server.receive(WAIT_S)
    client.join(WAIT_S)
    assert isinstance(client.outcome, TransportError)


def test_a_front_that_cannot_be_made_is_told_to_both_sides(serve, authority, tmp_path):
    failures = [OSError(28, "No space left on device"), ZeroDivisionError("a bug")]

    def front(name):
        raise failures.pop(0)

    server = serve(front=front)
    identity = tls.load_identity(authority / "clients" / "a.pem")
    with ServerCalls(f"localhost:{server.port}", identity, replace(HASTY, give_up_s=0.1)) as calls:
        with pytest.raises(RefusedError, match="No space left"):
            calls.fetch_front(tmp_path, *ANY_FRONT)
        with pytest.raises(TransportError, match="the server has failed"):
            calls.fetch_front(tmp_path, *ANY_FRONT)
    with pytest.raises(ZeroDivisionError):
        server.receive(WAIT_S)


@pytest.mark.parametrize("broken", ["pack", "unpack"])
def test_whatever_ends_a_thread_of_the_client_reaches_its_caller(serve, join, monkeypatch, broken):
    """Of the two: the one that reads, and gRPC's own, which takes what is to be sent."""
    server = serve()
    monkeypatch.setattr(f"splitcom.transports.grpc_client.{broken}", lambda *arguments: 1 / 0)
    client = join(server.port)
    client.join(WAIT_S)
    assert isinstance(client.outcome, ZeroDivisionError)


def test_a_client_that_is_refused_in_the_middle_is_gone_for_whoever_waits_for_it(serve, authority):
    server = serve()
    identity = tls.load_identity(authority / "clients" / "a.pem")
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    opening = Open(
        protocol_version=TRANSPORT_VERSION, conversation=bytes(16), position=Position(window_bytes=1 << 16)
    )
    with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        call = channel.stream_stream(f"/{SERVICE}/Converse")

        def frames():
            yield pack(Parcel(Frame(open=opening)))
            expect(server, Joined("a"))
            yield b"no frame"

        list(call(frames(), timeout=WAIT_S))
    expect(server, Gone("a"))


def test_what_a_peer_says_stays_on_one_line_and_within_bounds(serve, join, caplog):
    caplog.set_level(logging.INFO)
    server = serve()
    client = join(server.port)
    expect(server, Joined("a"), Received("a", b"hello"))
    server.refuse("a", "no\n\x1b[2J" + "x" * 1_000_000)
    client.join(WAIT_S)
    for text in (str(client.outcome), *(record.getMessage() for record in caplog.records)):
        assert "\n" not in text and "\x1b" not in text and len(text) < 1500
    assert "no\\n\\x1b[2Jxx" in str(client.outcome)


@pytest.mark.parametrize("name", ["../../../pwn", ".hidden", "", "a\nb", "a" * 64 + "b", "ä"])
def test_a_certificate_whose_name_could_be_a_path_lets_nobody_in(
    serve, authority, tmp_path, monkeypatch, name
):
    server = serve()
    with monkeypatch.context() as patch:  # an authority that has been tampered with
        patch.setattr(tls, "check_name", lambda name: name)
        patch.setattr(tls, "_NAME", re.compile(".*", re.DOTALL))
        bundle = (
            tls._issue(authority, name, "client", tmp_path / "odd.pem", 1, None)
            if 0 < len(name) <= 64
            else None
        )
    if bundle is None:
        with pytest.raises(IdentityError, match="client name"):
            tls.check_name(name)
        return
    identity = tls.load_identity(bundle)
    with pytest.raises(IdentityError, match="client name"):
        identity.name  # noqa: B018
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Probe", lambda probe: b"", bytes)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=WAIT_S)
    assert (
        refused.value.code() is grpc.StatusCode.PERMISSION_DENIED and "client name" in refused.value.details()
    )


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_is_taken_for_names_alone_and_named_where_it_fails(serve, authority, monkeypatch, variable):
    port = serve(address="127.0.0.1:0").port
    identity = tls.load_identity(authority / "clients" / "a.pem")
    impatient = replace(HASTY, give_up_s=0.1)
    monkeypatch.setenv(variable, "http://user:secret@127.0.0.1:9")
    proxied = "localhost" if variable == "grpc_proxy" else "server.test"
    with (
        ServerCalls(f"{proxied}:{port}", identity, impatient) as calls,
        pytest.raises(TransportError, match=rf"the proxy 127\.0\.0\.1:9, .* {variable} names") as error,
    ):
        calls.describe()
    assert "secret" not in str(error.value)
    if variable == "grpc_proxy":
        monkeypatch.setenv("no_proxy", "localhost")
    with ServerCalls(f"localhost:{port}", identity, impatient) as calls:
        calls.describe()


def test_one_function_starts_the_threads_of_the_package():
    """So that none can end without a word."""
    root = Path(splitcom.__file__).parent
    for path in root.rglob("*.py"):
        if path == root / "transports" / "thread.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Thread"), (
                path
            )


def test_calls_whose_answers_are_not_taken_end_one_another(serve, authority, tmp_path):
    folder = tmp_path / "front"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(48 << 20)  # much more than gRPC takes ahead
    server = serve(front=lambda name: folder)
    identity = tls.load_identity(authority / "clients" / "a.pem")
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        front = channel.unary_stream(f"/{SERVICE}/Front", lambda request: request, bytes)
        calls = [front(b"", timeout=WAIT_S) for _ in range(8)]
        deadline = time.monotonic() + WAIT_S
        while len(ended := [call for call in calls if not call.is_active()]) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert all(call.code() is grpc.StatusCode.CANCELLED for call in ended)
        with ServerCalls(f"localhost:{server.port}", identity, HASTY) as others:
            others.describe()
