"""A run's server over a network: it holds the body, waits for its clients, trains, and writes the run folder."""

import logging
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from splitcom.amount import counted
from splitcom.config import Config
from splitcom.durable import make_folder, make_private, write_atomic
from splitcom.errors import ConfigError, RunError
from splitcom.methods.admin import Admin, Drain, listening
from splitcom.methods.ending import Ending, export
from splitcom.methods.monitor import Monitor
from splitcom.methods.record import Record
from splitcom.methods.rollback import DEFENCES, check_from_round, go_back
from splitcom.methods.run import Run, check_resumable, configured, ended_with, run_rounds, trained_of
from splitcom.methods.seats import Seats
from splitcom.methods.settings import begin, check_model
from splitcom.metrics.record import RunFolder
from splitcom.models import fingerprint
from splitcom.models.front import write_front
from splitcom.parties.build import build_server, most_message_bytes
from splitcom.parties.check import check_parts
from splitcom.parties.parts import (
    begin_from_adapter,
    load_server_parts,
    most_blocks,
    with_adapter,
)
from splitcom.parties.texts import check_max_tokens, check_template, with_chat
from splitcom.server.agreement import forget_clients
from splitcom.server.observe import Observer, Observers
from splitcom.training.store import PartyStore
from splitcom.transports.endpoint import Limits
from splitcom.transports.files import allow_connections
from splitcom.transports.frames_pb2 import Description
from splitcom.transports.grpc import SERVER_TIMEOUTS, TRANSPORT_VERSION, Timeouts
from splitcom.transports.grpc_server import GrpcServer
from splitcom.transports.tls import Revocations, load_server_identity

_LOG = logging.getLogger(__name__)
_RUN_ID = "run-id"
_FAREWELL_S = 30.0  # for clients that are on their way back when the run ends


@dataclass(frozen=True)
class ServeOptions:
    """Where a server listens, whom it believes, and where it writes."""

    listen: str
    authority: Path
    out: Path
    resume: bool = False
    timeouts: Timeouts = SERVER_TIMEOUTS
    from_round: int | None = None  # of those that are kept, to go back to


def serve(
    config: Config,
    options: ServeOptions,
    observers: Sequence[Observer] = (),
    on_listening: Callable[[GrpcServer], None] = lambda server: None,
) -> Run:
    """Serve one run to its end; `on_listening` is given the server as soon as clients can reach it.

    Raises what `train` does, IdentityError for certificates, and TransportError if it cannot listen.
    """
    config = with_adapter(with_chat(configured(config), has_rows=False))
    if config.engine.kind == "ray":
        raise ConfigError(
            "engine.kind = 'ray': a server's clients are where they join from; that kind is for splitcom train, set "
            "engine.kind = 'local'"
        )
    folder = RunFolder(options.out)
    with folder.locked():
        return _serve_into(folder, config, options, observers, on_listening)


def _serve_into(
    folder: RunFolder,
    config: Config,
    options: ServeOptions,
    observers: Sequence[Observer],
    on_listening: Callable[[GrpcServer], None],
) -> Run:
    if (result := _ended(folder, config, options)) is not None:
        return Run(folder.path, result)
    identity = load_server_identity(options.authority)
    seats = Seats(config.federation.names, folder.path)
    digest = _check_model(folder, config)
    warnings = check_parts(config)
    parts = load_server_parts(config)
    begin_from_adapter(parts, config)
    identifier = _run_identifier(folder)
    allow_connections(config.federation.clients)
    with (
        _front_folder(config, folder) as write_parts,
        GrpcServer(
            options.listen,
            identity,
            Revocations(options.authority),
            lambda name: _description(name, identifier, config, digest),
            max_clients=config.federation.clients,
            front=write_parts if config.training.split else None,
            limits=Limits(message_bytes=most_message_bytes(config, parts)),
            timeouts=options.timeouts,
            barred=seats.barred,
        ) as transport,
    ):
        # not before: a port that is taken leaves nothing behind
        _begin(folder, config, options, digest, identifier)
        _LOG.info("listening on port %d for %s", transport.port, counted(config.federation.clients, "client"))
        on_listening(transport)
        operated = _Operated(config, folder, transport, seats)
        observer = Observers([Record(folder), operated.monitor, *observers, operated.drain])
        federation = build_server(config, transport, parts, digest, folder.checkpoints / "server", observer)
        with closing(federation), operated.listening():
            warnings += run_rounds(federation, observer)
        trained = trained_of(federation, config, config.method, transport.state()["virtual_s"], warnings)
        ending = Ending(folder, trained.result)
        ending.keep()
        ending.attempt("adapter", lambda: export(trained, parts, folder, config))
        transport.close(_FAREWELL_S)
    _retire(folder, config)
    return Run(folder.path, ending.result)


def _description(name: str, identifier: str, config: Config, digest: str) -> Description:
    return Description(
        protocol_version=TRANSPORT_VERSION,
        package_version=version("splitcom"),
        run=identifier,
        config_toml=config.told(name),
        model_fingerprint=digest,
    )


class _Operated:
    """What whoever runs the server sees and decides; what was decided before it was started holds at once."""

    def __init__(self, config: Config, folder: RunFolder, transport: GrpcServer, seats: Seats) -> None:
        self.monitor, self.drain = Monitor(config.training.rounds), Drain(config.training.rounds)
        self.monitor.watch(transport)
        for order in seats.excluded:
            transport.order(order)
        admin = Admin(self.monitor.snapshot, transport.order, seats, self.drain)
        self.listening = partial(listening, folder.path, admin)


def _check_model(folder: RunFolder, config: Config) -> str:
    """The model's fingerprint; refuses one that the run cannot have, or has not begun with."""
    check_max_tokens(config)
    check_template(config)
    digest = fingerprint(config.model.source)
    check_model(folder, config.model.source, digest)
    return digest


def _ended(folder: RunFolder, config: Config, options: ServeOptions) -> dict[str, Any] | None:
    """The result of a run that is resumed though it has ended; refuses a folder in which this run cannot be.

    One that goes back has not ended.
    """
    check_from_round(folder, options.from_round, resume=options.resume)
    if not options.resume:
        folder.refuse_if_used()
        return None
    goes_back = options.from_round is not None
    check_resumable(folder, config, also=["federation.clients", *(DEFENCES if goes_back else ())])
    if goes_back:
        return None
    if (result := ended_with(folder, config)) is not None:
        _LOG.info("%s: this run has ended already; there is nothing left to serve", folder.path)
        _retire(folder, config)
    return result


def _retire(folder: RunFolder, config: Config) -> None:
    """Remove what the run has left of clients' text, if it is not to be kept; there may be nothing left to remove."""
    references = folder.checkpoints / "server" / "references"
    if not config.references.keep:
        shutil.rmtree(references, ignore_errors=True)
        forget_clients(PartyStore(folder.checkpoints / "server"))


@contextmanager
def _front_folder(config: Config, folder: RunFolder) -> Iterator[Callable[[str], Path]]:
    """What writes the folder that a client is sent; it is there no longer than the server is, and is no stranger's.

    There is one for each cut that clients have.
    """
    written: set[Path] = set()

    def write(name: str) -> Path:
        own = config.of_client(name)
        model, classes, cut = own.model, own.data.classes, most_blocks(own)
        place = folder.front / str(cut)
        if place not in written:
            make_folder(place, private=True)
            write_front(model.source, cut, getattr(torch, model.dtype), place, model.tail_blocks, classes)
            make_private(place)
            written.add(place)
        return place

    shutil.rmtree(folder.front, ignore_errors=True)  # what a server that was killed has left
    try:
        yield write
    finally:
        shutil.rmtree(folder.front, ignore_errors=True)


def _begin(folder: RunFolder, config: Config, options: ServeOptions, digest: str, identifier: str) -> None:
    if options.from_round is not None:
        go_back(folder, options.from_round)
    begin(folder, config, digest)
    write_atomic(folder.path / _RUN_ID, identifier.encode())


def _run_identifier(folder: RunFolder) -> str:
    """Tells this run from others, also after a restart: clients keep their states below it."""
    path = folder.path / _RUN_ID
    try:
        return path.read_text(encoding="ascii") if path.exists() else secrets.token_hex(8)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
