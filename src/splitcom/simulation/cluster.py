"""A Ray cluster whose actors have the clients of a run; frozen weights lie once in the object store of each node.

What the actors begin with and what is sent to them goes through Ray, which pickles: all of a cluster trusts itself.
"""

import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import ray
import torch
from torch import Tensor, nn

from splitcom.config import Config
from splitcom.data import Sample
from splitcom.errors import ConfigError, RefusedError, RunError
from splitcom.parties.parts import Parts, device_of
from splitcom.protocol.messages_pb2 import Message
from splitcom.simulation.clients import Clients
from splitcom.transports.actors import Actors, Said
from splitcom.transports.link import VirtualClock

Given = tuple[Sequence[Sample], Sequence[Sample]]
_STORE_BYTES = 200_000_000  # of a local cluster's object store, beside twice the weights


class Host:
    """Some of the clients of a run, in an actor."""

    def __init__(self, config: Config, parts: Parts, folder: Path, fingerprint: str) -> None:
        self._run = config, parts, folder, fingerprint

    def ready(self) -> None:
        """Bring the parts to where they run.

        Raises RunError if what clients save here would not be found elsewhere, ConfigError if there is no such device.
        """
        config, parts, folder, _ = self._run
        if not folder.is_dir():
            raise RunError(
                f"{folder}: the node {socket.gethostname()} does not see it; put the run folder (--out) on "
                "a file system that all nodes of the Ray cluster share"
            )
        device = device_of(config)
        for part in parts.all:
            part.to(device)
        self._clients = Clients(*self._run)

    def say(self, client: str, data: bytes | None, given: Given | None, welcome: bytes) -> Said:
        """See `Actors`."""
        if given is not None:
            hello = self._clients.make(client, *given).connect()
            if data is None:
                self._clients.drop(client)
                return Said(hello, welcome=b"")
        peer = self._clients[client]
        if welcome:
            peer.receive(welcome)
        started = perf_counter()
        try:
            assert data is not None
            answer = peer.receive(data)
        except RefusedError as error:
            self._clients.drop(client)
            return Said(None, perf_counter() - started, refused=str(error))
        if peer.kept is None:
            return Said(answer, perf_counter() - started)
        self._clients.drop(client)
        return Said(answer, perf_counter() - started, welcome=Message(welcome=peer.kept).SerializeToString())


@contextmanager
def clustered(
    config: Config,
    parts: Parts,
    folder: Path,
    fingerprint: str,
    given: Callable[[str], Given],
    clock: VirtualClock,
) -> Iterator[Actors]:
    """All clients of a run in actors; within it, this process is in the cluster."""
    is_ours = not ray.is_initialized()
    if is_ours:
        _join(config, parts)
    try:
        settings = config.engine.ray
        kind = ray.remote(num_cpus=settings.cpus, num_gpus=settings.gpus, scheduling_strategy="SPREAD")(Host)
        theirs = Parts(parts.front, None if config.training.split else parts.body, parts.tail)
        arguments = ray.put(config), _put(theirs), folder.resolve(), fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        actors = Actors(
            config.client_names, given, lambda: kind.remote(*arguments), _number_of_actors(config), clock
        )
        with closing(actors):
            yield actors
    finally:
        if is_ours:
            ray.shutdown()


def _number_of_actors(config: Config) -> int:
    settings, there = config.engine.ray, ray.cluster_resources()
    wanted = {"CPU": settings.cpus, "GPU": settings.gpus}
    room = int(min(there.get(kind, 0.0) / each for kind, each in wanted.items() if each))
    if not room:
        raise ConfigError(
            f"engine.ray.cpus = {settings.cpus:g}, engine.ray.gpus = {settings.gpus:g}: the Ray cluster has "
            f"{there.get('CPU', 0.0):g} CPUs and {there.get('GPU', 0.0):g} GPUs, no room for one actor; add nodes, "
            "or ask for less"
        )
    return min(settings.actors or room, len(config.client_names))


def _join(config: Config, parts: Parts) -> None:
    """Connect to the configured cluster, to that of RAY_ADDRESS, or to one that is begun here; raises ConfigError."""
    address = config.engine.ray.address or os.environ.get("RAY_ADDRESS", "local")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or else Ray tells its makers of each cluster
    own = {}
    if address == "local":
        weights = sum(tensor.nbytes for part in parts.all for tensor in part.parameters())
        own = {"object_store_memory": _STORE_BYTES + 2 * weights}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="WARNING", **own)
    except Exception as error:  # Ray's own of many kinds, and plain ones
        raise ConfigError(
            f"engine.ray.address = {address!r}: cannot join the Ray cluster: {error}; begin one as "
            "docs/how-to.md says and name its address, or leave it out for one on this machine alone"
        ) from error


def _put(parts: Parts) -> Any:
    """Parts in the object store, from where all actors of a node share their frozen weights."""
    ray.util.register_serializer(nn.Parameter, serializer=_flat, deserializer=_shared)
    try:
        return ray.put(parts)
    finally:
        ray.util.deregister_serializer(nn.Parameter)


def _flat(parameter: Tensor) -> tuple[Any, torch.dtype, torch.Size, bool]:
    """A parameter as an array of bytes, which Ray reads in place."""
    values = parameter.detach().cpu().contiguous()
    return values.reshape(-1).view(torch.uint8).numpy(), values.dtype, values.shape, parameter.requires_grad


def _shared(flat: tuple[Any, torch.dtype, torch.Size, bool]) -> nn.Parameter:
    array, dtype, shape, is_trained = flat
    with warnings.catch_warnings():  # torch's, that the array must not be written to
        warnings.simplefilter("ignore")
        values = torch.from_numpy(array).view(dtype).reshape(shape)
    return nn.Parameter(values.clone() if is_trained else values, is_trained)
