"""What controllers decide reaches both ends of each flow."""

import torch

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.control import Decision
from splitcom.protocol.messages_pb2 import RoundStart
from splitcom.training.channel import Channel
from splitcom.training.steering import announce, follow, settings_of, steer

CODECS = {
    "activation_up": "temporal(0.98) > int8",
    "gradient_down": "klt > uniform(1.0) > range",
    "activation_down": "fp16",
}


def channels():
    return {
        flow: Channel(flow, "a", parse(codec), MemoryReferences(), seed=0) for flow, codec in CODECS.items()
    }


def test_the_client_goes_by_what_the_server_has_decided():
    server, client, start = channels(), channels(), RoundStart(round=3)
    steer(server, {"activation_up": Decision(threshold=0.5), "gradient_down": Decision(step=2.0)})
    announce(server, start)
    assert dict(start.thresholds) == {"activation_up": 0.5} and dict(start.steps) == {"gradient_down": 2.0}
    follow(client, start)
    assert [channel.decision for channel in client.values()] == [
        Decision(threshold=0.5),
        Decision(step=2.0),
        Decision(),
    ]
    assert settings_of(client) == {"activation_up": 0.5, "gradient_down": 2.0}
    assert [channel.setting for channel in client.values()] == [0.5, 2.0, None]


def test_held_out_samples_have_a_step_of_their_own():
    coded = Channel("evaluation_up", "a", parse("klt > uniform(1.0) > range"), MemoryReferences(), seed=0)
    coded.decision, client = Decision(step=0.25), channels() | {"evaluation_up": coded}
    follow(client, RoundStart(steps={"gradient_down": 2.0, "evaluation_up": 2.0}))
    assert coded.decision == Decision(step=0.25) and client["gradient_down"].decision == Decision(step=2.0)


def test_without_a_decision_the_codecs_text_holds_again():
    client = channels()
    follow(client, RoundStart(steps={"gradient_down": 2.0}))
    follow(client, RoundStart())
    assert settings_of(client) == {}
    assert [channel.setting for channel in client.values()] == [0.98, 1.0, None]


def test_a_step_that_is_set_is_the_step_of_the_packet():
    batch = Ragged(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([6]))
    channel = channels()["gradient_down"]
    channel.decision = Decision(step=2.0)
    wanted = channel.codec.encode(batch, [1], Context(MemoryReferences(), step=2.0)).packet
    assert channel.encode(batch, [1], (0, 0)) == wanted
    assert wanted != channel.codec.encode(batch, [1], Context(MemoryReferences())).packet
