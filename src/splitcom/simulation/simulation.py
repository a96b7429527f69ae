"""All parties of a run under one command: the real client and server sessions over a transport with a virtual clock."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from splitcom.config import Config
from splitcom.data import Sample
from splitcom.errors import ConfigError
from splitcom.models import fingerprint
from splitcom.parties.build import build_server
from splitcom.parties.parts import Parts
from splitcom.parties.texts import Texts
from splitcom.server.observe import Observer
from splitcom.simulation.clients import Clients
from splitcom.transports.events import Transport
from splitcom.transports.inproc import InProcess
from splitcom.transports.link import VirtualClock


class Simulation:
    """All parties of a run: in this process, or with the clients in a cluster.

    `parts` are those of `load_parts`: the server trains this very body, clients train copies of the others. `folder`
    is where the parties keep their states and, where so configured, their references.
    """

    def __init__(
        self,
        config: Config,
        texts: Texts,
        parts: Parts,
        folder: Path,
        observer: Observer | None = None,
    ) -> None:
        _check_times(config)
        self._config = config
        self._parts = parts
        self._folder = folder
        self.fingerprint = fingerprint(config.model.source)
        names = config.client_names
        self._samples = dict(zip(names, texts.partition.parts, strict=True))
        self._held_out = {
            name: texts.held_out.samples[index :: len(names)] for index, name in enumerate(names)
        }
        self.clock = VirtualClock(config.links, config.seed, config.link_of)
        self.clients: Clients | None = None
        """Those in this process; None if they are in a cluster."""
        with ExitStack() as opened:
            transport = self._transport(opened)
            self.federation = build_server(
                config, transport, parts, self.fingerprint, folder / "server", observer
            )
            opened.callback(self.federation.close)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of references that are kept in files, and of what runs elsewhere."""
        self._opened.close()

    def _transport(self, opened: ExitStack) -> Transport:
        """What reaches the clients: they are here, or in a cluster."""
        config, here = self._config, (self._parts, self._folder, self.fingerprint)
        if config.engine.kind == "ray":
            from splitcom.simulation.cluster import clustered  # an extra

            return opened.enter_context(clustered(config, *here, self._given, self.clock))
        self.clients = clients = opened.enter_context(closing(Clients(config, *here)))
        return InProcess(config.client_names, lambda name: clients.make(name, *self._given(name)), self.clock)

    def _given(self, name: str) -> tuple[Sequence[Sample], Sequence[Sample]]:
        """A client's samples to train on and held-out ones."""
        return self._samples[name], self._held_out[name]


def _check_times(config: Config) -> None:
    """Raise ConfigError if the order of events would depend on how busy this machine is."""
    steps = [config.link_of(name).step_s for name in config.client_names]
    if not config.federation.waits_for_all and None in (*steps, config.links.server_step_s):
        raise ConfigError(
            "with federation.deadline_s, over_select or asynchronous scheduling, a run depends on the "
            "time that steps take; in one process that must be given, or each run would end otherwise: "
            "set links.step_s, links.server_step_s and step_s of every link in clients, such as "
            "0.1"
        )
