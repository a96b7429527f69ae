"""The adapter that all clients share, as they have it: what packets have made of it; knows nothing of scheduling.

    version 1 ── P_2 ──► version 2 ── P_3 ──► version 3           S_v = decode(P_v, base = S_(v-1))

A packet is encoded once, for all. A client that holds an older version gets the packets in between if they are kept and
take less than the whole in fp32. If the codec builds on no base, the last packet alone serves everybody.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

from splitcom.aggregation import Update
from splitcom.aggregation import parse as parse_aggregator
from splitcom.aggregation.bounds import clipped, weighed
from splitcom.aggregation.comparison import Compared, compared
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.metrics.tally import Tally
from splitcom.privacy.masks import NUMBER_BYTES
from splitcom.protocol.adapters import MAX_PACKETS, pack_packets
from splitcom.protocol.messages_pb2 import EvaluationStart, RoundStart
from splitcom.seeds import derive_seed
from splitcom.state import State
from splitcom.training.adapters import AdapterCodec, AdapterSender, digest_of, uncompressed_adapter_size
from splitcom.training.density import Density
from splitcom.training.segments import segment_of, segments_of, whole_of
from splitcom.training.store import sections_of

_Start = TypeVar("_Start", RoundStart, EvaluationStart)


DRAWN = -1
"""In place of a version: the first, which a client has drawn itself; nothing of it has been sent."""


MASKED = "masked"
"""In place of a tensor's name: the bytes of an update that is under masks."""


class Holder(Protocol):
    """Who holds a version: a client, as the server knows it; 0 if none."""

    adapter_version: int


class SharedAdapter:
    """`tensors` and their `version`, which counts from 1; the server goes on with the numbers that clients get.

    `in_use` tells from which versions the updates that are still to come began, `merges` counts all that has ever been
    merged, also in rounds that had to be repeated.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        config: Config,
        in_use: Callable[[], Collection[int]],
        merges: Tally | None = None,
        on_merge: Callable[[Sequence[Update]], None] = lambda _: None,
    ) -> None:
        self._merges = merges
        self._on_merge = on_merge
        self._aggregator = parse_aggregator(config.federation.aggregator)
        up, down = config.flows.adapter("adapter_up"), config.flows.adapter("adapter_down")
        self._up = AdapterCodec(up.codec, up.codec_a)
        self._sender = AdapterSender(down)
        self._down = self._sender.codec
        self._num_segments = config.federation.segments
        self._density = Density(config.federation.density_rate)
        self._exact = AdapterCodec("none")
        self._max_ratio = config.federation.max_update_ratio
        self._max_weight = None if config.training.split else config.federation.max_weight_ratio
        self._seed = config.seed
        self._is_masked = config.federation.secure_aggregation is not None
        self._in_use = in_use
        self._uncompressed: dict[str, Counter[str]] = defaultdict(Counter)
        self._compared: dict[str, Compared] = {}
        self.version = 1
        self.tensors = {name: tensor.detach().cpu().float() for name, tensor in sorted(tensors.items())}
        self._drawn = digest_of(self.tensors)
        self._packets: list[bytes] = []  # the last ones, each of which makes the next version
        if not self._down.needs_base:
            self._put(self.tensors)
        self._older: dict[int, dict[str, torch.Tensor]] = {}  # by version
        self._is_replaced = False

    @property
    def share(self) -> float | None:
        """How far codecs are to go to their density."""
        return self._density.share

    def observe(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Hear how a round has gone, by its lines of metrics.jsonl."""
        self._density.observe(lines)

    @property
    def min_updates(self) -> int:
        """Of how many updates at least the aggregator makes more than their mean."""
        return self._aggregator.min_updates

    def merge(self, updates: Sequence[Update]) -> None:
        """Make the next version of what clients have made of this one, if any of them has changed it.

        Raises NonFiniteError if the result cannot be sent.
        """
        if new := [update for update in updates if update.is_new]:
            self._on_merge(new)
            if self._up.needs_base:
                self._older[self.version] = self.tensors
            self.version += 1
            if self._merges is not None:
                self._merges.write(self._merges.read() + 1)
            shared = segments_of(self.tensors, self._num_segments)
            merged = self._aggregator.merge(shared, self._bounded(new))
            self._put(whole_of(merged, self.tensors, self._num_segments))
            used = self._in_use()
            self._older = {version: old for version, old in self._older.items() if version in used}

    def _bounded(self, updates: Sequence[Update]) -> list[Update]:
        """Updates as far as they are believed, compared with those of the same segment; they are sorted by it.

        How many labels they weigh by is a claim if nothing is split.
        """
        if self._max_weight is not None:
            updates = weighed(updates, self._max_weight)
        bounded: list[Update] = []
        for segment in range(self._num_segments):
            alike = [update for update in updates if update.segment == segment]
            held = segment_of(self.tensors, segment, self._num_segments)
            self._compared |= compared(held, alike)
            bounded += alike if self._max_ratio is None else clipped(held, alike, self._max_ratio)
        return bounded

    def held_by(self, digest: bytes) -> int:
        """What a client holds that begins with an adapter of this digest: DRAWN, or 0 for none."""
        return DRAWN if self._down.needs_base and digest == self._drawn else 0

    def offer(self, name: str, client: Holder, message: _Start) -> _Start:
        """Put the adapter into a message, but for a client that holds this version already."""
        message.adapter_version = self.version
        held = 1 if client.adapter_version == DRAWN else client.adapter_version
        if client.adapter_version != self.version and self.tensors:
            if held != self.version:
                message.adapter = self._payload(held)
            # as pack_packets has one packet
            self._uncompressed[name]["adapter_down"] += 1 + uncompressed_adapter_size(self.tensors)
        client.adapter_version = self.version
        return message

    @contextmanager
    def replaced(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Offer these until this ends, in fp32 to the same bits: a version of its own, on which nothing builds."""
        last, packets = self.tensors, self._packets
        if self._up.needs_base:
            self._older[self.version] = last
        self.version += 1
        self.tensors, self._is_replaced = dict(tensors), True
        try:
            yield
        finally:
            self.version += 1
            self.tensors, self._is_replaced = last, False
            self._packets = [] if self._down.needs_base else packets

    def read(self, name: str, packet: bytes, version: int, segment: int = 0) -> Mapping[str, torch.Tensor]:
        """What a client has made of a version, or of a segment of it.

        Raises PacketError and RemoteProtocolError if it cannot be that.
        """
        base = self.tensors if version == self.version else self._older.get(version)
        if base is None:
            if self._up.needs_base:
                raise RemoteProtocolError(f"an adapter that builds on version {version}, which is not held")
            base = self.tensors
        if self._is_masked:
            adapter = _check_masked(packet, sum(tensor.numel() for tensor in base.values()))
        else:
            adapter = self._up.decode(packet, segment_of(base, segment, self._num_segments))
        self._uncompressed[name]["adapter_up"] += uncompressed_adapter_size(base)
        return adapter

    def moved(self, change: torch.Tensor) -> dict[str, torch.Tensor]:
        """The shared adapter, fp64, with one number of `change` added to each, by the order of names."""
        sizes = [tensor.numel() for tensor in self.tensors.values()]
        changes = zip(self.tensors.items(), torch.split(change, sizes), strict=True)
        return {name: tensor.double() + own.reshape(tensor.shape) for (name, tensor), own in changes}

    def take_compared(self) -> dict[str, Compared]:
        """How the updates that were merged since the last call lay among those they were merged with, by client."""
        found, self._compared = self._compared, {}
        return found

    def take_uncompressed(self, name: str) -> Mapping[str, int]:
        """What a client's adapters since the last call take with the plain fp16 codec, by flow."""
        return self._uncompressed.pop(name, Counter())

    def state(self) -> State:
        """What a checkpoint keeps."""
        aggregator = self._aggregator.state()
        tensors = {f"now.{name}": tensor for name, tensor in self.tensors.items()}
        tensors |= {f"aggregator.{name}": tensor for name, tensor in aggregator.tensors.items()}
        for index, packet in enumerate(self._packets):
            tensors[f"packet.{index}"] = torch.frombuffer(bytearray(packet), dtype=torch.uint8)
        for version, older in self._older.items():
            tensors |= {f"older.{version}.{name}": tensor for name, tensor in older.items()}
        tensors |= {f"residual.{name}": tensor for name, tensor in self._sender.residual.items()}
        scalars = {
            "version": self.version,
            "aggregator": aggregator.scalars,
            "by": self._aggregator.name,
            "losses": [self._density.first, self._density.last],
        }
        return State(tensors, scalars)

    def load_state(self, state: State) -> None:
        """Go back to a version that has been kept."""
        sections = sections_of(state.tensors)
        self.tensors, self.version = dict(sorted(sections["now"].items())), state.scalars["version"]
        packets = sorted(sections["packet"].items(), key=lambda item: int(item[0]))
        self._packets = [packet.numpy().tobytes() for _, packet in packets]
        self._older = {int(version): older for version, older in sections_of(sections["older"]).items()}
        self._sender.residual = dict(sections["residual"])
        self._density.first, self._density.last = state.scalars.get("losses", (None, None))
        self._uncompressed.clear()
        self._compared.clear()
        if state.scalars.get("by", self._aggregator.name) == self._aggregator.name:
            self._aggregator.load_state(State(sections["aggregator"], state.scalars["aggregator"]))
        else:  # a run that has gone back may have another one, which begins anew
            self._aggregator.load_state(State())

    def _put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Encode what is to be the present version."""
        seed = derive_seed(self._seed, "adapter_down", self.version)
        packet, self.tensors = self._sender.encode(tensors, self.tensors, seed, self.share)
        if not packet:  # of fronts that do not learn
            return
        self._packets.append(packet)
        # More than the whole takes will never be sent.
        most = 2 * uncompressed_adapter_size(self.tensors) if self._down.needs_base else 0
        while len(self._packets) > 1 and (
            sum(map(len, self._packets)) >= most or len(self._packets) > MAX_PACKETS
        ):
            del self._packets[0]

    def _payload(self, held: int) -> bytes:
        """What leads a client from the version that it holds to the present one."""
        if not self._down.needs_base and not self._is_replaced:
            return pack_packets(self._packets)
        exact, _ = self._exact.encode(self.tensors, self.tensors)
        behind = self.version - held
        if held and behind <= len(self._packets) and not self._is_replaced:
            chain = pack_packets(self._packets[-behind:])
            if len(chain) <= len(exact):
                return chain
        return pack_packets([exact], is_exact=True)


def _check_masked(data: bytes, count: int) -> dict[str, torch.Tensor]:
    """The bytes of an update under masks, of so many numbers; raises RemoteProtocolError if they are not as many."""
    if len(data) != count * NUMBER_BYTES:
        raise RemoteProtocolError(
            f"an update of {len(data)} bytes under masks; {count * NUMBER_BYTES} are due"
        )
    return {MASKED: torch.frombuffer(bytearray(data), dtype=torch.uint8)}
