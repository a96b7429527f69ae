"""Many client sessions in one process without a model: they say what a client says, over the network's own protocol.

Started by load.py with a file of what to say (`Script`); writes what it has measured. It imports no torch, so that a
thousand sessions fit beside the server that they load. What a client would compute is encoded beforehand and the same
for all; each goes through it at its own pace, so the server's codecs, references and steps are those of a real run.
"""

import asyncio
import base64
import json
import os
import random
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

import grpc

from splitcom.protocol.messages_pb2 import (
    Activation,
    EvaluationBatch,
    EvaluationEnd,
    Hello,
    Message,
    RoundEnd,
    StateSaved,
)
from splitcom.protocol.session import PROTOCOL_VERSION
from splitcom.transports import tls
from splitcom.transports.endpoint import Endpoint
from splitcom.transports.frames_pb2 import Frame, Open
from splitcom.transports.framing import Parcel, pack, unpack
from splitcom.transports.grpc import SERVICE, TRANSPORT_VERSION, Timeouts, channel_options

_DIALLING_AT_ONCE = 32  # in one process; a real fleet has a machine for each
_AWAY_S = 0.2


@dataclass
class Script:
    """What the sessions of one process say, and who is among them; bytes are in base64."""

    address: str
    authority: str
    names: list[str]
    last: str  # who joins when `go` exists
    go: str
    ready: str  # is written when all others have been admitted
    out: str
    fingerprint: str
    samples: int
    held_out: int
    visits: list[list[list[str]]]  # of each visit each step's packet and labels
    evaluations: list[list[str]]  # of each evaluation the packet and labels
    adapter: str
    churn: float = 0.0  # the part of those not in the round who leave and come back


@dataclass
class Measured:
    """What the sessions of one process have found."""

    admission_s: list[float] = field(default_factory=list)  # from dialling to being let in
    wait_s: dict[str, list[float]] = field(default_factory=dict)  # from a batch to its gradient, by client
    steps: dict[str, int] = field(default_factory=dict)
    returns_s: list[float] = field(default_factory=list)
    begun_anew: int = 0


class Session:
    """One client's."""

    def __init__(self, name: str, fleet: "Fleet") -> None:
        self.name = name
        self.round = 0  # in which it takes part and which is not saved yet, or 0
        self._fleet = fleet
        self._identity = tls.load_identity(Path(fleet.script.authority) / "clients" / f"{name}.pem")
        self._saved: list[int] = []
        self._kept: dict[int, tuple[int, int]] = {}
        self._visit = self._evaluation = self._step = 0
        self._sent_at = 0.0
        self._call: grpc.aio.StreamStreamCall | None = None
        self._leaves = ""
        self._begin()

    def _begin(self) -> None:
        self._endpoint = Endpoint()
        self._conversation = os.urandom(16)
        self._connections = 0
        script = self._fleet.script
        hello = Hello(
            protocol_version=PROTOCOL_VERSION,
            client=self.name,
            model_fingerprint=script.fingerprint,
            num_samples=script.samples,
            num_held_out=script.held_out,
            saved_rounds=self._saved,
        )
        self._endpoint.send(Message(hello=hello).SerializeToString())

    def leave(self, how: str) -> None:
        """Break the connection off: come back to the conversation ("back") or begin another ("anew")."""
        if self._call is not None:
            self._leaves = how
            self._call.cancel()

    async def run(self) -> None:
        """Hold the conversation to its end, however often the connection is left."""
        while not await self._connection():
            how, self._leaves = self._leaves, ""
            assert how, f"{self.name}: the server has ended the connection"
            await asyncio.sleep(_AWAY_S)
            if how == "anew":
                self._begin()

    async def _connection(self) -> bool:
        """Returns whether the run is over."""
        identity = self._identity
        credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
        options = (*channel_options(Timeouts()), ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.secure_channel(self._fleet.script.address, credentials, options) as channel:
            call = channel.stream_stream(f"/{SERVICE}/Converse")()
            try:
                async with self._fleet.dialling:
                    if not await self._open(call):
                        return False
                self._call = call
                return await self._converse(call)
            except asyncio.CancelledError:
                if not self._leaves:
                    raise
                return False
            finally:
                self._call = None

    async def _open(self, call: grpc.aio.StreamStreamCall) -> bool:
        """Returns whether the conversation goes on; the server may want another one."""
        started = monotonic()
        opening = Open(
            protocol_version=TRANSPORT_VERSION,
            conversation=self._conversation,
            resumes=self._connections > 0,
            position=self._endpoint.position(),
        )
        self._connections += 1
        await call.write(pack(Parcel(Frame(open=opening))))
        frame = unpack(await call.read()).frame
        if frame.WhichOneof("kind") == "reset":
            self._reset()
            return False
        assert frame.WhichOneof("kind") == "opened", f"{self.name}: {frame}"
        self._endpoint.resume(frame.opened.position)
        self._fleet.admitted(self, monotonic() - started)
        return True

    def _reset(self) -> None:
        self._fleet.measured.begun_anew += 1
        self._leaves, self.round = "anew", 0

    async def _converse(self, call: grpc.aio.StreamStreamCall) -> bool:
        endpoint = self._endpoint
        while True:
            try:
                while (parcel := endpoint.next_parcel()) is not None:
                    await call.write(pack(parcel))
            except grpc.aio.AioRpcError:  # the connection has just ended, from either side
                self._leaves = self._leaves or "back"
                return False
            if (answer := await call.read()) is grpc.aio.EOF:
                return False
            parcel = unpack(answer)
            if parcel.frame.WhichOneof("kind") == "reset":
                self._reset()
                return False
            data = endpoint.receive(parcel)
            if data is None:
                continue
            endpoint.consume()
            message = Message.FromString(data)
            if message.WhichOneof("kind") == "finish":
                while (parcel := endpoint.next_parcel()) is not None:  # that it has come
                    await call.write(pack(parcel))
                await call.done_writing()
                return True
            if (said := self._answer(message)) is not None:
                endpoint.send(said.SerializeToString())

    def _answer(self, message: Message) -> Message | None:
        fleet = self._fleet
        match message.WhichOneof("kind"):
            case "welcome":
                self._visit = self._evaluation = 0
                if message.welcome.HasField("round"):  # else it begins anew, and so does what it says
                    self._visit, self._evaluation = self._kept[message.welcome.round]
                return None
            case "round_start":
                self.round, self._step = message.round_start.round, 0
                return self._batch()
            case "gradient":
                fleet.measured.wait_s.setdefault(self.name, []).append(monotonic() - self._sent_at)
                fleet.measured.steps[self.name] = fleet.measured.steps.get(self.name, 0) + 1
                fleet.in_round(self.round)
                return self._batch()
            case "evaluation_start":
                packet, labels = fleet.script.evaluations[self._evaluation]
                self._evaluation += 1
                batch = EvaluationBatch(activation=_bytes(packet), labels=_bytes(labels))
                return Message(evaluation_batch=batch)
            case "evaluation_next":
                return Message(evaluation_end=EvaluationEnd())
            case "save_state":
                self.round = 0  # until then the round would have to be done again without it
                self._keep(message.save_state.round)
                return Message(state_saved=StateSaved())
            case kind:
                raise AssertionError(f"{self.name}: {kind}: {message}")

    def _keep(self, round_index: int) -> None:
        self._saved = [*self._saved[-1:], round_index]
        self._kept[round_index] = (self._visit, self._evaluation)

    def _batch(self) -> Message:
        """The next batch of the round, or its end."""
        script = self._fleet.script
        steps = script.visits[self._visit]
        if self._step < len(steps):
            packet, labels = steps[self._step]
            self._step += 1
            self._sent_at = monotonic()
            step = self._step - 1
            return Message(activation=Activation(step=step, activation=_bytes(packet), labels=_bytes(labels)))
        self._visit += 1
        return Message(round_end=RoundEnd(round=self.round, adapter=_bytes(script.adapter)))


class Fleet:
    """All sessions of this process."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.measured = Measured()
        self.dialling = asyncio.Semaphore(_DIALLING_AT_ONCE)
        self._seen: set[str] = set()
        self._churned = 0
        self._draw = random.Random(0)
        self._sessions = [Session(name, self) for name in script.names]

    def admitted(self, session: Session, seconds: float) -> None:
        """A session has a connection."""
        first = session.name not in self._seen
        (self.measured.admission_s if first else self.measured.returns_s).append(seconds)
        self._seen.add(session.name)
        if first and len(self._seen) == len(self.script.names) - (self.script.last in self.script.names):
            Path(self.script.ready).touch()

    def in_round(self, number: int) -> None:
        """A gradient of this round has come, so that everybody who is in it has been told: some others leave."""
        if number <= self._churned or not self.script.churn:
            return
        self._churned = number
        idle = [session for session in self._sessions if not session.round]
        some = round(self.script.churn * len(self._sessions))
        for index, session in enumerate(self._draw.sample(idle, min(some, len(idle)))):
            session.leave("anew" if index % 2 else "back")

    async def run(self) -> None:
        """Run all sessions to their end."""

        async def one(session: Session) -> None:
            while session.name == self.script.last and not Path(self.script.go).exists():
                await asyncio.sleep(0.1)
            await session.run()

        async with asyncio.TaskGroup() as group:
            for session in self._sessions:
                group.create_task(one(session))


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def main() -> None:
    script = Script(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

    async def run() -> Measured:
        fleet = Fleet(script)
        await fleet.run()
        return fleet.measured

    with suppress(KeyboardInterrupt):
        Path(script.out).write_text(json.dumps(asdict(asyncio.run(run()))), encoding="utf-8")


if __name__ == "__main__":
    main()
