"""The adapter that all clients share, as they have it: what packets have made of it; knows nothing of scheduling.

    version 1 ── P_2 ──► version 2 ── P_3 ──► version 3           S_v = decode(P_v, base = S_(v-1))

A packet is encoded once, for all who hold the same part (`holdings.py`). A client that holds an older version gets
the packets in between if they are kept and take less than the whole in fp32. If the codec builds on no base, the last
packet alone serves everybody.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from splitcom.protocol.messages_pb2 import EvaluationStart, RoundStart
from splitcom.seeds import derive_seed
from splitcom.server.holdings import Common, Holdings
from splitcom.server.stream import Stream, exactly
from splitcom.state import State
from splitcom.training.adapters import AdapterCodec, uncompressed_adapter_size
from splitcom.training.density import Density
from splitcom.training.ranks import slices_of
from splitcom.training.ranks import whole_of as joined
from splitcom.training.segments import segment_of, segments_of, whole_of
from splitcom.training.store import sections_of

Tensors = Mapping[str, torch.Tensor]
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
        tensors: Tensors,
        config: Config,
        in_use: Callable[[], Collection[int]],
        merges: Tally | None = None,
        on_merge: Callable[[Sequence[Update]], None] = lambda _: None,
        common: Common | None = None,
    ) -> None:
        self._merges = merges
        self._on_merge = on_merge
        self._aggregator = parse_aggregator(config.federation.aggregator)
        up, down = config.flows.adapter("adapter_up"), config.flows.adapter("adapter_down")
        self._up = AdapterCodec(up.codec, up.codec_a)
        self._num_segments = config.federation.segments
        self._density = Density(config.federation.density_rate)
        self._max_ratio = config.federation.max_update_ratio
        self._max_weight = None if config.training.split else config.federation.max_weight_ratio
        self._seed = config.seed
        self._is_masked = config.federation.secure_aggregation is not None
        self._in_use = in_use
        self._uncompressed: dict[str, Counter[str]] = defaultdict(Counter)
        self._compared: dict[str, Compared] = {}
        self._common = common or Common(Holdings(config, {}), config, None)
        self._holdings = holdings = self._common.holdings
        self.version = 1
        self._whole = Stream(tensors, down)
        self._others = {one: Stream(holdings.part(tensors, one), down) for one in holdings.others}
        self._replaced: Tensors | None = None
        if not self._whole.needs_base:
            self._put(self._whole.tensors)
        else:
            self._common.take(self.tensors)

    @property
    def tensors(self) -> Tensors:
        """Those of the present version, by name."""
        return self._whole.tensors if self._replaced is None else self._replaced

    @property
    def _streams(self) -> list[Stream]:
        return [self._whole, *self._others.values()]

    def _stream_of(self, name: str) -> Stream:
        return self._others.get(self._holdings.of(name), self._whole) if self._others else self._whole

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
                for stream in self._streams:
                    stream.keep(self.version)
            self.version += 1
            if self._merges is not None:
                self._merges.write(self._merges.read() + 1)
            own = self._common.updates(new)
            shared = segments_of(self._sliced(self.tensors), self._num_segments)
            sliced = [replace(update, adapter=self._sliced(update.adapter)) for update in (*new, *own)]
            merged = self._aggregator.merge(shared, [*self._bounded(sliced[: len(new)]), *sliced[len(new) :]])
            slices = whole_of(merged, self.tensors, self._num_segments)
            self._put(slices if len(self._holdings.ranks) == 1 else joined(slices, self._holdings.ranks))
            used = self._in_use()
            for stream in self._streams:
                stream.forget_but(used)

    def _sliced(self, tensors: Tensors) -> Tensors:
        return slices_of(tensors, self._holdings.ranks)

    def _bounded(self, updates: Sequence[Update]) -> list[Update]:
        """Updates as far as they are believed, compared with those of the same segment; they are sorted by it.

        How many labels they weigh by is a claim if nothing is split.
        """
        if self._max_weight is not None:
            updates = weighed(updates, self._max_weight)
        bounded: list[Update] = []
        for segment in range(self._num_segments):
            alike = [update for update in updates if update.segment == segment]
            held = segment_of(self._sliced(self.tensors), segment, self._num_segments)
            self._compared |= compared(held, alike)
            bounded += alike if self._max_ratio is None else clipped(held, alike, self._max_ratio)
        return bounded

    def held_by(self, digest: bytes, name: str = "") -> int:
        """What a client holds that begins with an adapter of this digest: DRAWN, or 0 for none."""
        stream = self._stream_of(name)
        return DRAWN if stream.needs_base and digest == stream.drawn else 0

    def offer(self, name: str, client: Holder, message: _Start) -> _Start:
        """Put a client's part of the adapter into a message, but if it holds this version already."""
        message.adapter_version = self.version
        if self._holdings.cuts.move:
            message.cut = self._holdings.of(name).cut
        stream = self._stream_of(name)
        held = 1 if client.adapter_version == DRAWN else client.adapter_version
        if client.adapter_version != self.version and stream.tensors:
            if held != self.version:
                message.adapter = self._payload(name, held)
            # as pack_packets has one packet
            self._uncompressed[name]["adapter_down"] += 1 + uncompressed_adapter_size(stream.tensors)
        client.adapter_version = self.version
        return message

    def _payload(self, name: str, held: int) -> bytes:
        """What leads a client from the version that it holds to the present one."""
        if self._replaced is None:
            return self._stream_of(name).payload(held, self.version)
        holding = self._holdings.of(name)
        return exactly(self._holdings.part(self._replaced, holding) if self._others else self._replaced)

    @contextmanager
    def replaced(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Offer these until this ends, in fp32 to the same bits: a version of its own, on which nothing builds."""
        if self._up.needs_base:
            for stream in self._streams:
                stream.keep(self.version)
        self.version += 1
        self._replaced = dict(tensors)
        try:
            yield
        finally:
            self.version += 1
            self._replaced = None
            for stream in self._streams:
                stream.break_off()

    def read(self, name: str, packet: bytes, version: int, segment: int = 0) -> Mapping[str, torch.Tensor]:
        """What a client has made of a version, or of a segment of it.

        Raises PacketError and RemoteProtocolError if it cannot be that.
        """
        stream = self._stream_of(name)
        base = stream.tensors if version == self.version else stream.older.get(version)
        if base is None:
            if self._up.needs_base:
                raise RemoteProtocolError(f"an adapter that builds on version {version}, which is not held")
            base = stream.tensors
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
        tensors = self._whole.state()
        for holding, stream in self._others.items():
            key = f"part.{holding.cut}-{holding.rank}"
            tensors |= {f"{key}.{name}": tensor for name, tensor in stream.state().items()}
        tensors |= {f"aggregator.{name}": tensor for name, tensor in aggregator.tensors.items()}
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
        self.version = state.scalars["version"]
        self._whole.load_state(state.tensors)
        parts = sections_of(sections["part"])
        for holding, stream in self._others.items():
            stream.load_state(parts[f"{holding.cut}-{holding.rank}"])
        self._density.first, self._density.last = state.scalars.get("losses", (None, None))
        self._uncompressed.clear()
        self._compared.clear()
        if state.scalars.get("by", self._aggregator.name) == self._aggregator.name:
            self._aggregator.load_state(State(sections["aggregator"], state.scalars["aggregator"]))
        else:  # a run that has gone back may have another one, which begins anew
            self._aggregator.load_state(State())

    def _put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Encode what is to be the present version; what holds a part of it gets a part of what all others get."""
        seed = derive_seed(self._seed, "adapter_down", self.version)
        self._whole.put(tensors, seed, self.share)
        for holding, stream in self._others.items():
            stream.put(self._holdings.part(self._whole.tensors, holding), seed, self.share)
        self._common.take(self.tensors)


def _check_masked(data: bytes, count: int) -> dict[str, torch.Tensor]:
    """The bytes of an update under masks, of so many numbers; raises RemoteProtocolError if they are not as many."""
    if len(data) != count * NUMBER_BYTES:
        raise RemoteProtocolError(
            f"an update of {len(data)} bytes under masks; {count * NUMBER_BYTES} are due"
        )
    return {MASKED: torch.frombuffer(bytearray(data), dtype=torch.uint8)}
