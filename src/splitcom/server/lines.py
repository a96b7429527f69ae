"""A line of metrics.jsonl: what one client did and cost in one round."""

from collections.abc import Mapping
from typing import Any

from splitcom.flows import AT_CUT, FLOWS, SUMS
from splitcom.server.conversations import Peer


def line_of(
    name: str,
    round_index: int,
    eval_loss: float | None,
    peer: Peer,
    counted: Mapping[str, int],
    adapters: Mapping[str, int],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Make the line from what the server has counted; takes the channels' traffic.

    `adapters` is what those that were sent take uncompressed, by flow.
    """
    traffic = {flow: channel.take_traffic() for flow, channel in peer.channels.items()}
    sent = {key: counted.get(key, 0) for key in (*FLOWS, *SUMS)}
    uncompressed = dict(sent)
    whole = {flow: size for flow, size in adapters.items() if sent[flow]}  # a party alone sends nothing
    for flow in traffic.keys() & set(AT_CUT):
        # What else crosses a cut has the shape of the activation, also where a frozen front saves it.
        whole[flow] = traffic["activation_up"].uncompressed_bytes
    for flow, size in whole.items():
        uncompressed[flow] = size
        uncompressed[FLOWS[flow].direction] += size - sent[flow]
    uncompressed["total"] = uncompressed["up"] + uncompressed["down"]
    return {
        "round": round_index,
        "client": name,
        "steps": peer.steps,
        "tokens": peer.tokens,
        "updates": peer.updates,
        "staleness": peer.staleness / peer.updates if peer.updates else None,
        "loss": peer.loss_sum / peer.num_labels if peer.num_labels else None,
        "eval_loss": eval_loss,
        "threshold": {
            flow: channel.setting for flow, channel in peer.channels.items() if channel.setting is not None
        },
        "skip_ratio": {
            flow: passed.skipped / passed.samples
            for flow, passed in traffic.items()
            if passed.samples and flow in AT_CUT
        },
        "bytes": sent,
        "uncompressed_bytes": uncompressed,
        "seconds": {"codec": sum(passed.seconds for passed in traffic.values()), **seconds},
    }
