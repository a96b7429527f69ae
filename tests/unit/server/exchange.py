"""Conversations that only remember what is sent, and read what clients are to say next from a list."""

from collections import defaultdict, deque
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from splitcom.codecs import Decoded, Ragged
from splitcom.engines.engine import Arrival
from splitcom.errors import PacketError, RemoteProtocolError
from splitcom.server.phases import Phases


class Clients:
    """`says[name]` is what a client says next; None in it is one that has left."""

    phases = Phases()

    def __init__(self, *names, num_samples=8):
        self.peers = {
            name: SimpleNamespace(num_samples=num_samples, num_held_out=0, is_idle=False) for name in names
        }
        self.says = defaultdict(deque)
        self.sent = []
        self.refused = {}

    @property
    def present(self):
        return [name for name in self.peers if name not in self.refused]

    ready = present

    def each(self, collected):
        yield from ((name, one) for name, one in collected.items() if name in self.present)

    @contextmanager
    def refusing(self, name):
        try:
            yield
        except (PacketError, RemoteProtocolError) as error:
            self.refused[name] = str(error)

    def send(self, name, message):
        self.sent.append((name, message))

    def next_of(self, name):
        return self.says[name].popleft() if self.says[name] else None

    def collect(self, names):
        messages = {name: self.next_of(name) for name in names}
        return {name: message for name, message in messages.items() if message is not None}

    def kinds(self):
        """What has been sent since the last call."""
        kinds = [(name, message.WhichOneof("kind")) for name, message in self.sent]
        self.sent.clear()
        return kinds


def arrival_of(ids, lengths, width=2, skipped=0):
    """A batch that counts up from its first id; the first `skipped` samples have been skipped."""
    values = torch.arange(float(sum(lengths) * width)).view(-1, width) + ids[0]
    flags = torch.arange(len(ids)) < skipped
    return Arrival(Decoded(Ragged(values, torch.tensor(lengths)), ids, flags), [])
