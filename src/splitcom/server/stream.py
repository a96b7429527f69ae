"""A part of the shared adapter as the clients have it that hold that part: what packets have made of it, by version."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from splitcom.config.flows import AdapterFlowConfig
from splitcom.protocol.adapters import MAX_PACKETS, pack_packets
from splitcom.training.adapters import AdapterCodec, AdapterSender, digest_of, uncompressed_adapter_size
from splitcom.training.store import sections_of

Tensors = Mapping[str, Tensor]
_EXACT = AdapterCodec("none")


class Stream:
    """`tensors` are those of the present version; `older` those of versions that updates may still build on."""

    def __init__(self, tensors: Tensors, settings: AdapterFlowConfig) -> None:
        self._sender = AdapterSender(settings)
        self.needs_base = self._sender.codec.needs_base
        self.tensors = {name: tensor.detach().cpu().float() for name, tensor in sorted(tensors.items())}
        self.drawn = digest_of(self.tensors)
        self.older: dict[int, Tensors] = {}
        self._packets: list[bytes] = []  # the last ones, each of which makes the next version
        self._whole: tuple[Tensors, bytes] | None = (
            None  # what the present version takes, and of which that was made
        )

    def put(self, tensors: Tensors, seed: int, share: float | None) -> None:
        """Encode what is to be the present version."""
        packet, self.tensors = self._sender.encode(tensors, self.tensors, seed, share)
        if not packet:  # of fronts that do not learn
            return
        self._packets.append(packet)
        # More than the whole takes will never be sent.
        most = 2 * uncompressed_adapter_size(self.tensors) if self.needs_base else 0
        while len(self._packets) > 1 and (
            sum(map(len, self._packets)) >= most or len(self._packets) > MAX_PACKETS
        ):
            del self._packets[0]

    def payload(self, held: int, version: int) -> bytes:
        """What leads a client from the version that it holds to the present one."""
        if not self.needs_base:
            return pack_packets(self._packets)
        behind = version - held
        if self._whole is None or self._whole[0] is not self.tensors:
            self._whole = (self.tensors, exactly(self.tensors))  # once for all clients
        whole = self._whole[1]
        if held and behind <= len(self._packets):
            chain = pack_packets(self._packets[-behind:])
            if len(chain) <= len(whole) - 1:  # which begins with a byte that tells the two apart
                return chain
        return whole

    def keep(self, version: int) -> None:
        """The present version will be an older one."""
        self.older[version] = self.tensors

    def forget_but(self, versions: Collection[int]) -> None:
        """Keep those older ones alone."""
        self.older = {version: old for version, old in self.older.items() if version in versions}

    def break_off(self) -> None:
        """Nothing that was sent is built on any more."""
        if self.needs_base:
            self._packets = []

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        tensors = {f"now.{name}": tensor for name, tensor in self.tensors.items()}
        for index, packet in enumerate(self._packets):
            tensors[f"packet.{index}"] = torch.frombuffer(bytearray(packet), dtype=torch.uint8)
        for version, older in self.older.items():
            tensors |= {f"older.{version}.{name}": tensor for name, tensor in older.items()}
        return tensors | {f"residual.{name}": tensor for name, tensor in self._sender.residual.items()}

    def load_state(self, state: Tensors) -> None:
        """Go back to what has been kept."""
        sections = sections_of(state)
        self.tensors = dict(sorted(sections["now"].items()))
        packets = sorted(sections["packet"].items(), key=lambda item: int(item[0]))
        self._packets = [packet.numpy().tobytes() for _, packet in packets]
        self.older = {int(version): older for version, older in sections_of(sections["older"]).items()}
        self._sender.residual = dict(sections["residual"])


def exactly(tensors: Tensors) -> bytes:
    """What gives a client these numbers, whatever it holds."""
    packet, _ = _EXACT.encode(tensors, tensors)
    return pack_packets([packet], is_exact=True)
