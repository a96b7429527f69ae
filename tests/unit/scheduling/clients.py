"""Clients that train nothing, on a clock that waits for nobody: what a way of scheduling makes of their speeds."""

from types import SimpleNamespace

import torch

from splitcom.aggregation import Update
from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.engines.engine import Arrival
from splitcom.server.part import ServerRun
from splitcom.server.state import ClientStates
from splitcom.server.steps import Brought


class Adapter:
    """The shared adapter, which is the number of updates that have been merged."""

    min_updates = 1

    def __init__(self):
        self.version = 1
        self.merged = []  # the clients of each merge
        self.tensors = {"x": torch.zeros(1)}

    def merge(self, updates):
        self.version += 1
        self.merged.append([update.client for update in updates])


class World:
    """Conversations and steps in one: a client is heard of `speeds[name]` seconds after it was told to go on.

    `samples` of each make its batches; a client in `leaving` is gone when it would next be heard of.
    """

    def __init__(self, speeds, config, samples=None):
        self.speeds = speeds
        self.states = ClientStates(lambda name: {})
        self.adapter = Adapter()
        self.config = config
        self.leaving = set()
        self.begun, self.steps = [], []
        self.peers = {
            name: SimpleNamespace(is_idle=True, is_present=True, num_samples=(samples or {}).get(name, 8))
            for name in speeds
        }
        self.transport = SimpleNamespace(now=lambda: self.time_s)
        self.time_s = 0.0
        self._due_s = {}

    def made(self, scheduling):
        return scheduling(ServerRun(self.config, self, self.states, self.adapter), self)

    @property
    def present(self):
        return [name for name, peer in self.peers.items() if peer.is_present]

    @property
    def ready(self):
        return [name for name in self.present if self.peers[name].is_idle]

    def collect(self, names):
        names = [name for name in names if name in self._due_s]
        self.time_s = max((self.time_s, *(self._due_s[name] for name in names)))
        return self._heard(names)

    def collect_arrived(self, names, until_s=None):
        first = min((self._due_s[name] for name in names), default=self.time_s)
        if until_s is not None and first > until_s:
            self.time_s = until_s
            return {}
        self.time_s = max(self.time_s, first)
        return self._heard([name for name in names if self._due_s[name] <= self.time_s])

    def begin(self, name, task, mask_shares=()):
        self.begun.append((name, task.round, task.version, task.next_step))
        self.states[name].task = task
        task.is_pausing = False
        self._go_on(name)

    def receive(self, messages):
        arrivals, updates = {}, {}
        for name in messages:
            task = self.states[name].task
            peer = self.peers[name]
            if task.is_abandoned:
                self.states[name].task, peer.is_idle = None, True
            elif task.next_step < -(-peer.num_samples // self.config.training.batch_size):
                arrivals[name] = arrival()
            else:
                self.states[name].task, peer.is_idle = None, True
                updates[name] = Update({"x": torch.ones(1)}, task.num_labels, task.version, True, name)
        return Brought(arrivals, updates)

    def step(self, arrivals, position, num_steps, progress, *, pause=False):
        self.steps.append(("".join(arrivals), position, num_steps, round(progress, 4)))
        for name in arrivals:
            task, peer = self.states[name].task, self.peers[name]
            task.next_step += 1
            task.num_labels += 3
            if pause and task.next_step < -(-peer.num_samples // self.config.training.batch_size):
                peer.is_idle = True
            else:
                self._go_on(name)

    def _go_on(self, name):
        self.peers[name].is_idle = False
        self._due_s[name] = self.time_s + self.speeds[name]

    def _heard(self, names):
        for name in names:
            del self._due_s[name]
        for name in self.leaving & set(names):
            self.peers[name].is_present, self.states[name].task = False, None
        return {name: name for name in names if name not in self.leaving}


def arrival():
    ragged = Ragged(torch.zeros(3, 2), torch.tensor([3]))
    return Arrival(Decoded(ragged, [0], torch.tensor([False])), [])


def settings(clients, **federation):
    """Two rounds, batches of four samples."""
    return Config(
        training={"batch_size": 4, "rounds": 2, "lr": 0.1},
        federation={"clients": clients, **federation},
    )
