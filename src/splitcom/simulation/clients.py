"""Makes the clients of a run that are in this process, which share the frozen weights of the parts that are here."""

from collections.abc import Sequence
from pathlib import Path

from splitcom.client.client import Client
from splitcom.config import Config
from splitcom.data import Sample
from splitcom.parties.build import build_client
from splitcom.parties.parts import Parts, at_cut, parts_of_client


class Clients:
    """Those of a run that are here now; the state of each goes below `folder`."""

    def __init__(self, config: Config, parts: Parts, folder: Path, fingerprint: str) -> None:
        self._config = config
        self._parts = parts
        self._folder = folder
        self._fingerprint = fingerprint
        self._clients: dict[str, Client] = {}
        self._own_parts: dict[tuple[int, int, str], Parts] = {}  # by cut, rank and device

    def __getitem__(self, name: str) -> Client:
        return self._clients[name]

    def make(self, name: str, samples: Sequence[Sample], held_out: Sequence[Sample]) -> Client:
        """One at the beginning of a conversation, in the place of an earlier one."""
        self.drop(name)
        config = self._config.of_client(name)
        self._clients[name] = build_client(
            name,
            config,
            self._parts_of(config),
            samples,
            held_out,
            self._fingerprint,
            self._folder / name,
            lambda cut: self._parts_of(at_cut(config, cut)).front,
        )
        return self._clients[name]

    def drop(self, name: str) -> None:
        """Let go of a client, if it is here."""
        if (client := self._clients.pop(name, None)) is not None:
            client.close()

    def close(self) -> None:
        """Let go of all."""
        for name in list(self._clients):
            self.drop(name)

    def _parts_of(self, own: Config) -> Parts:
        """What clients with such a configuration run."""
        key = (own.model.cut, own.lora.rank, own.model.device)
        if key not in self._own_parts:
            self._own_parts[key] = parts_of_client(own, self._config, self._parts)
        return self._own_parts[key]
