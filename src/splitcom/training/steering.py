"""Decisions of controllers on their way to both ends of each flow. Knows no controller and no conversation.

server   decisions ─► steer ─► channels ─► announce ─► round_start ─┐
client                                     channels ◄── follow ◄────┘
"""

from collections.abc import Mapping

from splitcom.control import Decision
from splitcom.flows import AT_CUT
from splitcom.protocol.messages_pb2 import RoundStart
from splitcom.training.channel import Channels


def steer(channels: Channels, decisions: Mapping[str, Decision]) -> None:
    """Set what the codec of each flow at the cut goes by; of no decision, its text. Held-out samples have their own."""
    for flow, channel in channels.items():
        if flow in AT_CUT:
            channel.decision = decisions.get(flow, Decision())


def announce(channels: Channels, start: RoundStart) -> None:
    """Write into the message what has been set."""
    for flow, channel in channels.items():
        if channel.decision.threshold is not None:
            start.thresholds[flow] = channel.decision.threshold
        if channel.decision.step is not None:
            start.steps[flow] = channel.decision.step


def follow(channels: Channels, start: RoundStart) -> None:
    """Set what the message says."""
    thresholds = {flow: Decision(threshold=value) for flow, value in start.thresholds.items()}
    steer(channels, thresholds | {flow: Decision(step=value) for flow, value in start.steps.items()})


def settings_of(channels: Channels) -> dict[str, float]:
    """Thresholds and steps that controllers have set, by flow: what people are shown."""
    return {
        flow: channel.decision.value
        for flow, channel in channels.items()
        if channel.decision.value is not None
    }
