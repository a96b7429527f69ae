"""All parties of a run in one process: the real client and server sessions over a transport with a virtual clock."""

from pathlib import Path

from splitcom.client.client import Client
from splitcom.config import Config
from splitcom.errors import ConfigError
from splitcom.models import fingerprint
from splitcom.parties.build import build_client, build_server
from splitcom.parties.parts import Parts, at_cut, parts_of_client
from splitcom.parties.texts import Texts
from splitcom.server.observe import Observer
from splitcom.transports.inproc import InProcess
from splitcom.transports.link import VirtualClock


class Simulation:
    """All parties of a run in this process.

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
        self._clients: dict[str, Client] = {}
        self._own_parts: dict[tuple[int, int, str], Parts] = {}  # by cut, rank and device
        self.clock = VirtualClock(config.links, config.seed, config.link_of)
        transport = InProcess(names, self._make_client, self.clock)
        self.federation = build_server(
            config, transport, parts, self.fingerprint, folder / "server", observer
        )

    def close(self) -> None:
        """Let go of references that are kept in files."""
        self.federation.close()
        for client in self._clients.values():
            client.close()

    def _make_client(self, name: str) -> Client:
        if name in self._clients:
            self._clients[name].close()
        config = self._config.of_client(name)
        self._clients[name] = build_client(
            name,
            config,
            self._parts_of(config),
            self._samples[name],
            self._held_out[name],
            self.fingerprint,
            self._folder / name,
            lambda cut: self._parts_of(at_cut(config, cut)).front,
        )
        return self._clients[name]

    def _parts_of(self, own: Config) -> Parts:
        """What clients with such a configuration run."""
        key = (own.model.cut, own.lora.rank, own.model.device)
        if key not in self._own_parts:
            self._own_parts[key] = parts_of_client(own, self._config, self._parts)
        return self._own_parts[key]


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
