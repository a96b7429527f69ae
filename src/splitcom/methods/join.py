"""A run's client over a network: it asks the server what the run is, and trains on its own rows."""

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from splitcom.allocator import return_freed_memory
from splitcom.client.client import Client
from splitcom.config import Config
from splitcom.data import Encoded, find_source
from splitcom.errors import ModelError, RefusedError, RemoteProtocolError, TransportError
from splitcom.methods.consent import Pins, asked, check_unchanged, columns_asked, columns_read, disclosure
from splitcom.methods.membership import Membership, Note, last_membership
from splitcom.models import fingerprint
from splitcom.models.front import plausible_bytes
from splitcom.parties.build import build_client, most_message_bytes
from splitcom.parties.check import check_parts
from splitcom.parties.known_rows import check_rows, keep_rows
from splitcom.parties.parts import at_cut, client_front, load_client_parts, most_blocks
from splitcom.parties.rows import ALL_ROWS, FIRST_ROWS, Look, OnRows, Rows, load_client_rows
from splitcom.parties.texts import encode_rows
from splitcom.training.store import PartyStore
from splitcom.transports.endpoint import Limits
from splitcom.transports.frames_pb2 import Description
from splitcom.transports.grpc import Timeouts
from splitcom.transports.grpc_calls import LinkMeasurement, ServerCalls
from splitcom.transports.grpc_client import run_client
from splitcom.transports.tls import Identity, load_identity

_LOG = logging.getLogger(__name__)
_LOCAL = "bundled"  # the model that every installation holds


@dataclass(frozen=True)
class JoinOptions:
    """What a client brings. `model` is where it has the base model, if it has; `cache` is for what it is sent."""

    address: str
    data: Path
    identity: Path
    state: Path
    cache: Path
    held_out: Path | None = None
    model: str | None = None
    device: str = "auto"
    give_up_s: float = Timeouts().give_up_s
    keeps_state: bool = False  # also when the run is over
    max_download_bytes: int = 20_000_000_000
    pins: Pins = field(default_factory=Pins)


@dataclass(frozen=True)
class Check:
    """What a client that would join has found out."""

    client: str
    config: Config
    package_version: str
    weights: str
    disclosure: Sequence[tuple[str, str]]
    link: LinkMeasurement
    warnings: Sequence[str]


@dataclass(frozen=True)
class _Welcome:
    """What the server has told and the client has found fit for it."""

    identity: Identity
    description: Description
    config: Config
    rows: Rows
    weights: str | None  # None: to be fetched from the server
    link: LinkMeasurement


def check(options: JoinOptions) -> Check:
    """All that `join` does before it loads a model: certificate, versions, model, columns, and the link.

    Of a large source it looks at the first rows alone, and warns of that.
    """
    with _calls(options) as calls:
        return _checked(_inquire(options, calls, FIRST_ROWS, thorough=True))


def _checked(welcome: _Welcome) -> Check:
    rows, config = welcome.rows, welcome.config
    return Check(
        welcome.identity.name,
        config,
        welcome.description.package_version,
        welcome.weights or "the server sends the front's",
        disclosure(config, rows.train, rows.held_out),
        welcome.link,
        rows.warnings,
    )


def join(
    options: JoinOptions,
    on_data: Callable[[Encoded, Encoded], None] = lambda train, held_out: None,
    agrees: Callable[[Check], bool] = lambda check: True,
    on_rows: OnRows = ALL_ROWS.on_rows,
) -> None:
    """Take part in a run until it has ended; when it is joined for the first time, only if the client `agrees`.

    Where the server is not there any more and this client's part is done, that is all there is to do. Raises
    IdentityError, RefusedError, TransportError, and what wrong data or models raise.
    """
    try:
        _join(options, on_data, agrees, Look(on_rows))
    except RefusedError:
        raise
    except TransportError:
        name = load_identity(options.identity).name
        membership = last_membership(options.state, name, options.address)
        if membership is None or not membership.is_complete(options.address):
            raise
        _LOG.info(
            "the server is gone, and this client has trained and saved its last round: nothing is left to do"
        )


def _join(
    options: JoinOptions,
    on_data: Callable[[Encoded, Encoded], None],
    agrees: Callable[[Check], bool],
    look: Look,
) -> None:
    with ExitStack() as stack:
        calls = stack.enter_context(_calls(options))
        welcome = _inquire(options, calls, look)
        membership = Membership(options.state, welcome.identity.name, welcome.description.run)
        stack.enter_context(membership.held())
        note = _agreed(options, welcome, membership, agrees)
        source = welcome.weights or str(_fetch(options, welcome, calls))
        calls.close()
        config = welcome.config.override({"model.source": source})
        check_parts(config)
        train, held_out = encode_rows(welcome.rows, config, look)
        on_data(train, held_out)
        groups = {"train": train.samples, "held out": held_out.samples}
        if PartyStore(membership.folder).rounds():
            check_rows(membership.folder, groups, "begin anew with them: give another folder with --state")
        keep_rows(membership.folder, groups)
        membership.write(note)
        _take_part(options, welcome, config, membership.folder, (train, held_out))
        membership.end(note, keeps_state=options.keeps_state)


def _agreed(
    options: JoinOptions, welcome: _Welcome, membership: Membership, agrees: Callable[[Check], bool]
) -> Note:
    """What the client has agreed to, now or when it joined this run; raises RefusedError if it has not."""
    now = asked(welcome.config, welcome.description.model_fingerprint)
    before = membership.note
    if before is not None:
        check_unchanged(before.agreed, now)
    elif not agrees(_checked(welcome)):
        raise RefusedError("not joined: nothing has been sent")
    return Note(options.address, welcome.config.training.rounds, now)


def _take_part(
    options: JoinOptions, welcome: _Welcome, config: Config, folder: Path, texts: tuple[Encoded, Encoded]
) -> None:
    """Hold conversations with the server until the run is over."""
    return_freed_memory()
    parts = load_client_parts(config)
    clients: list[Client] = []

    def begin() -> Client:
        while clients:
            clients.pop().close()
        train, held_out = texts
        digest = welcome.description.model_fingerprint
        clients.append(
            build_client(
                welcome.identity.name,
                config,
                parts,
                train.samples,
                held_out.samples,
                digest,
                folder,
                lambda cut: client_front(at_cut(config, cut)),
            )
        )
        return clients[-1]

    link, limits = welcome.link, Limits(message_bytes=most_message_bytes(config, parts))
    timeouts = Timeouts(give_up_s=options.give_up_s).for_link(
        link.round_trip_s, min(link.up_bps, link.down_bps), limits.window_bytes
    )
    try:
        run_client(options.address, welcome.identity, begin, timeouts, limits)
    finally:
        while clients:
            clients.pop().close()


def _calls(options: JoinOptions) -> ServerCalls:
    return ServerCalls(
        options.address, load_identity(options.identity), Timeouts(give_up_s=options.give_up_s)
    )


def _inquire(options: JoinOptions, calls: ServerCalls, look: Look, *, thorough: bool = False) -> _Welcome:
    for source in (options.data, options.held_out):
        if source is not None:
            find_source(source)  # what is not there need not wait for the server
    description = calls.describe()
    if not re.fullmatch("[0-9a-f]{1,64}", description.run):
        raise RemoteProtocolError(
            f"the server calls its run {description.run[:80]!r}, which is not an identifier of a run"
        )
    changes = {
        "data.source": str(options.data),
        "data.held_out": None if options.held_out is None else str(options.held_out),
        "model.device": options.device,
        "lora.init": None,  # the server's, which sends it
    }
    config = Config.from_toml(description.config_toml, where="the server's configuration").override(changes)
    options.pins.check(config)
    options.pins.check_columns(columns_asked(config))
    weights = _own_weights(options, config, description)
    if weights is not None:
        digest = fingerprint(weights)
        calls.describe(digest)  # so that the server says it too
        if digest != description.model_fingerprint:
            raise RefusedError(f"{weights} is another base model than the server's; leave --model out")
    rows = load_client_rows(config, look)
    options.pins.check_columns(columns_read(config, chain(rows.train, rows.held_out)))
    return _Welcome(
        load_identity(options.identity),
        description,
        config,
        rows,
        weights,
        calls.measure(thorough=thorough),
    )


def _own_weights(options: JoinOptions, config: Config, description: Description) -> str | None:
    """Where this client has the base model; None if the server is to send the front."""
    if options.model is not None:
        return options.model
    if config.model.source == _LOCAL and fingerprint(_LOCAL) == description.model_fingerprint:
        return _LOCAL
    if not config.training.split:
        raise ModelError(
            f"the method {config.method} trains the whole model at the client: give its folder or name with --model"
        )
    return None


def _fetch(options: JoinOptions, welcome: _Welcome, calls: ServerCalls) -> Path:
    model = welcome.config.model

    def check(folder: Path, num_bytes: int) -> None:
        cut = most_blocks(welcome.config)
        plausible = plausible_bytes(folder, cut, model.tail_blocks, welcome.config.data.classes)
        if num_bytes > plausible:
            raise RemoteProtocolError(
                f"the server would send {num_bytes / 1e6:.1f} MB of weights, and by its configuration the front has "
                f"at most {plausible / 1e6:.1f} MB"
            )

    return calls.fetch_front(options.cache, options.max_download_bytes, check)
