"""A line of metrics.jsonl: means, sums, and what all of it would have taken uncompressed."""

import torch

from splitcom.codecs import Ragged, parse, uncompressed_size
from splitcom.server.lines import line_of
from splitcom.server.state import ClientState, Counts
from splitcom.training.channel import Channel

SECONDS = {"server": 0.5, "client": 0.25, "virtual": 9.0}


def line(state, counted, adapters):
    return line_of("a", 3, 1.25, 4, state, counted, adapters, SECONDS)


def test_means_are_over_what_was_counted_and_none_of_nothing():
    done = ClientState(
        {}, counts=Counts(steps=2, tokens=30, loss_sum=25.0, num_labels=10, updates=4, staleness=6)
    )
    found = line(done, {"adapter_up": 7, "up": 7, "total": 7}, {})
    assert (found["round"], found["client"], found["eval_loss"], found["eval_rows"]) == (3, "a", 1.25, 4)
    assert (found["steps"], found["tokens"], found["labels"], found["loss"]) == (2, 30, 10, 2.5)
    assert (found["updates"], found["staleness"]) == (4, 1.5)
    assert (
        found["bytes"]["adapter_up"] == found["bytes"]["total"] == 7 and found["bytes"]["activation_up"] == 0
    )
    assert found["seconds"] == {"codec": 0, **SECONDS}
    nothing = line(ClientState({}), {}, {})
    assert nothing["loss"] is nothing["staleness"] is None and nothing["skip_ratio"] == {}


def test_a_flow_at_the_cut_would_have_taken_what_the_activation_takes_in_fp16():
    channels = {
        flow: Channel(flow, "a", parse("int8"), None, 0) for flow in ("activation_up", "gradient_down")
    }
    lengths = torch.tensor([3, 2])
    channels["activation_up"].encode(Ragged(torch.ones(5, 8), lengths), [1, 2], (1, 0))
    plain = uncompressed_size([1, 2], [3, 2], 8)
    counted = {"activation_up": 50, "up": 60, "total": 60, "control": 10}  # no gradient: the front is frozen
    stepped = Counts(uncompressed_bytes=plain)
    found = line(ClientState(channels, counts=stepped), counted, {"adapter_down": 400})
    whole = found["uncompressed_bytes"]
    assert whole["activation_up"] == whole["gradient_down"] == plain
    assert whole["up"] == 60 - 50 + plain and whole["down"] == plain + 400
    assert whole["total"] == whole["up"] + whole["down"]
    assert whole["adapter_up"] == 0 and whole["adapter_down"] == 400  # the client has drawn it itself
    assert found["skip_ratio"] == {"activation_up": 0.0}
    assert channels["activation_up"].traffic.samples == 0  # has been taken


def test_nothing_would_have_come_back_of_an_activation_that_was_too_late():
    channels = {
        flow: Channel(flow, "a", parse("int8"), None, 0) for flow in ("activation_up", "gradient_down")
    }
    for sample in (1, 2):
        channels["activation_up"].encode(Ragged(torch.ones(3, 8), torch.tensor([3])), [sample], (1, sample))
    plain = uncompressed_size([1], [3], 8)
    stepped = Counts(steps=1, uncompressed_bytes=plain)
    whole = line(ClientState(channels, counts=stepped), {"total": 60}, {})["uncompressed_bytes"]
    assert (whole["activation_up"], whole["gradient_down"]) == (2 * plain, plain)
