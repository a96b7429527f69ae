"""A line of metrics.jsonl: what one client did and cost in one round."""

from collections.abc import Mapping
from typing import Any

from splitcom.flows import AT_CUT, FLOWS, SUMS
from splitcom.server.state import ClientState
from splitcom.training.channel import Traffic


def line_of(
    name: str,
    round_index: int,
    eval_loss: float | None,
    eval_rows: int | None,
    state: ClientState,
    counted: Mapping[str, int],
    adapters: Mapping[str, int],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Make the line from what the server has counted; takes the channels' traffic.

    `adapters` is what a round's take uncompressed, by flow; also those that need not be sent.
    """
    done = state.counts
    traffic = {flow: channel.take_traffic() for flow, channel in state.channels.items()}
    sent = {key: counted.get(key, 0) for key in (*FLOWS, *SUMS)}
    return {
        "round": round_index,
        "client": name,
        "steps": done.steps,
        "held_out_batches": done.held_out_batches,
        "tokens": done.tokens,
        "labels": done.num_labels,
        "updates": done.updates,
        "staleness": done.staleness / done.updates if done.updates else None,
        "loss": done.loss,
        "eval_loss": eval_loss,
        "eval_rows": eval_rows,
        "threshold": {
            flow: channel.setting
            for flow, channel in state.channels.items()
            if channel.setting is not None and flow in AT_CUT
        },
        "skip_ratio": {
            flow: passed.skipped / passed.samples
            for flow, passed in traffic.items()
            if passed.samples and flow in AT_CUT
        },
        "bytes": sent,
        "uncompressed_bytes": _uncompressed(sent, adapters, traffic, done.uncompressed_bytes),
        "seconds": {"codec": sum(passed.seconds for passed in traffic.values()), **seconds},
    }


def _uncompressed(
    sent: Mapping[str, int], adapters: Mapping[str, int], traffic: Mapping[str, Traffic], stepped: int
) -> dict[str, int]:
    """What the same round sends with fp16 flows; `stepped` is that of the activations that it has stepped on."""
    uncompressed = dict(sent)
    whole = dict(adapters) if sent["total"] else {}  # a party alone sends nothing
    for flow in traffic.keys() & set(AT_CUT):
        # What else crosses a cut has the shape of the activation, also where a frozen front saves it; nothing comes of
        # one that is too late.
        whole[flow] = traffic[flow].uncompressed_bytes if flow == "activation_up" else stepped
    for flow, size in whole.items():
        uncompressed[flow] = size
        uncompressed[FLOWS[flow].direction] += size - sent[flow]
    for direction in ("up", "down"):
        if (passed := traffic.get(f"evaluation_{direction}")) is not None:
            # with fp16 flows no evaluation is done once more
            again = traffic[f"evaluation_{direction}_exact"].packet_bytes
            more = traffic["evaluation_up"].uncompressed_bytes - passed.packet_bytes - again
            uncompressed["evaluation"] += more
            uncompressed[direction] += more
    uncompressed["total"] = uncompressed["up"] + uncompressed["down"]
    return uncompressed
