"""A flow that is coded as what it adds to another one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from splitcom.codecs import MemoryReferences, Ragged, parse
from splitcom.engines.engine import Arrival
from splitcom.engines.passes import Rows
from splitcom.errors import PacketError, UnknownReference
from splitcom.server.outliers import Seen
from splitcom.training.channel import Channel

from ...elsewhere import CUDA, Elsewhere
from ...guesses import Told

IDS = [7, 3]
GUESSING = "predict(guess=labels) > klt > uniform(0.3) > range"


def side(codec, entering="fp16"):
    """The channels of a flow that enters the body and of one that leaves it, as one of two parties has them."""
    up = Channel("activation_up", "a", parse(entering), MemoryReferences(), seed=0)
    return up, Channel("activation_down", "a", parse(codec), MemoryReferences(), seed=0, base=up)


def batch(seed, scale=1.0):
    values = scale * torch.randn(9, 32, generator=torch.Generator().manual_seed(seed))
    return Ragged(values, torch.tensor([4, 5]))


@pytest.mark.parametrize("entering", ["fp16", "delta > int4", "predict > klt(16) > uniform(0.5) > range"])
@pytest.mark.parametrize(
    "codec", ["none", "temporal(0.9) > delta > int8", "predict > klt(32) > uniform(0.1) > range"]
)
def test_both_ends_add_the_same(codec, entering):
    (up, down), (server_up, server_down) = side(codec, entering), side(codec, entering)
    for step in range(3):
        come_in = server_up.decode(up.encode(batch(step), IDS, (0, step)), 1 << 20)
        out = replace(come_in.batch, values=come_in.batch.values + batch(9, 0.1).values)
        received = down.decode(server_down.encode(out, IDS, (0, step)), 1 << 20).batch
        assert (received.values - out.values).abs().max() < 0.05, "an error in proportion to what is added"
        assert torch.equal(server_up._last[1].values, up._last[1].values)


def test_a_packet_of_other_tokens_is_refused_and_the_base_is_that_of_the_same_step():
    (up, down), (server_up, server_down) = side("none"), side("none")
    with pytest.raises(
        PacketError, match="activation_down of other samples or tokens than activation_up had"
    ):
        server_down.encode(batch(1), IDS, (0, 0))
    server_up.decode(up.encode(batch(1), IDS, (0, 0)), 1 << 20)
    packet = server_down.encode(batch(2), IDS, (0, 0))
    up.encode(batch(1), [7, 4], (0, 1))
    with pytest.raises(PacketError, match="other samples or tokens"):
        down.decode(packet, 1 << 20)


def test_what_arrives_at_a_gpu_is_decoded_there_and_stays_there():
    codecs = ("predict > klt(32) > uniform(0.1) > range", "predict > klt(16) > uniform(0.5) > range")
    sides = side(*codecs), side(*codecs), side(*codecs)
    (up, down), (server_up, server_down), (_, plain_down) = sides
    for channel in (up, down, server_up, server_down):
        channel.device = CUDA
    labels = [np.arange(4), np.arange(5)]
    with (gpu := Elsewhere()):
        packet = up.encode(replace(batch(1), values=gpu.put(batch(1).values)), IDS, (0, 0))
        gpu.fetched.clear()
        come_in = server_up.decode(packet, 1 << 20)
        of_step = Rows({"a": Arrival(come_in, labels)}).take([0, 1], CUDA, torch.float32)
        assert come_in.batch.values.device == of_step.hidden.device == CUDA and sum(gpu.fetched) < 100
        Seen().add(come_in.batch.values)
        out = replace(come_in.batch, values=come_in.batch.values + gpu.put(batch(9, 0.1).values))
        back = server_down.encode(out, IDS, (0, 0))
        received = down.decode(back, 1 << 20).batch
        assert received.values.device == received.to_padded(of_step.mask.cpu()).device == CUDA
        values = received.values.cpu()
    plain_down._base.decode(packet, 1 << 20)
    assert torch.equal(plain_down.decode(back, 1 << 20).batch.values, values)


def test_gradients_are_right_along_the_activations_that_they_answer_in_every_step():
    codec = "predict(window=0, rank=0) > klt(8, centre=sum, along=2) > uniform(2) > range"

    def ends():
        up = Channel("activation_up", "a", parse("delta > int4"), MemoryReferences(), seed=0)
        return up, Channel("gradient_down", "a", parse(codec), MemoryReferences(), seed=0, answers=up)

    def long(seed):
        values = torch.randn(40, 32, generator=torch.Generator().manual_seed(seed))
        return Ragged(values, torch.tensor([18, 22]))

    (up, down), (server_up, server_down) = ends(), ends()
    for step in range(2):
        server_up.decode(up.encode(long(step), IDS, (0, step)), 1 << 20)
        out = long(7 + step)
        received = down.decode(server_down.encode(out, IDS, (0, step)), 1 << 20).batch
        missed = up._passed.columns.mT @ (received.values - out.values)
        assert missed.abs().max() < 0.3, "a step is 2"
        assert torch.equal(up._passed.columns, server_up._passed.columns)


def test_directions_that_held_out_samples_have_told_are_not_told_again():
    def one_side(follows):
        held_out = Channel(
            "evaluation_up", "a", parse("predict > klt > uniform(0.125) > range"), MemoryReferences(), seed=0
        )
        up = Channel(
            "activation_up", "a", parse("predict > klt > uniform(0.5) > range"), MemoryReferences(), seed=0
        )
        up.follows = held_out if follows else None
        return held_out, up

    def few_directions(seed):
        return replace(batch(seed), values=batch(seed).values[:, :4] @ batch(9).values[:4])

    sizes = []
    for follows in (False, True):
        (held_out, up), (server_held_out, server_up) = one_side(follows), one_side(follows)
        server_held_out.decode(held_out.encode(few_directions(1), IDS, (0, 0)), 1 << 20)
        packet = up.encode(few_directions(2), IDS, (1, 0))
        received = server_up.decode(packet, 1 << 20).batch.values
        assert (received - few_directions(2).values).square().mean() < 0.5**2 * 4 / 12
        sizes.append(len(packet))
    assert sizes[1] < 0.7 * sizes[0]

    _, without = one_side(follows=True)
    with pytest.raises(UnknownReference):
        without.decode(packet, 1 << 20)
    again = up.encode(few_directions(2), IDS, (1, 0), self_contained=True)
    assert torch.equal(
        without.decode(again, 1 << 20).batch.values, server_up.decode(again, 1 << 20).batch.values
    )


def guessing(off=0.0):
    """An end of a flow whose labels tell the batch of seed 1, but for an error."""
    channel = Channel("activation_up", "a", parse(GUESSING), MemoryReferences(), seed=0)
    told = Told(IDS, batch(1).lengths, batch(1).values + off, np.ones(9, np.bool_))
    channel.guess = lambda labels: told if labels == LABELS else None
    return channel


LABELS = {7: np.array([1, 2, 3, 4]), 3: np.array([5, 6, 7, 8, 9])}


def test_labels_that_both_ends_have_make_a_packet_small():
    sizes = []
    for labels in (None, LABELS):
        sender, receiver = guessing(), guessing()
        packet = sender.encode(batch(1), IDS, (0, 0), labels=labels)
        assert (receiver.decode(packet, 1 << 20, labels).batch.values - batch(1).values).abs().max() < 0.4
        sizes.append(len(packet))
    assert sizes[1] < sizes[0]
    with pytest.raises(UnknownReference):
        guessing().decode(packet, 1 << 20, None)


def test_a_sender_whose_guesses_are_never_understood_makes_no_more_of_them(caplog):
    sender, receiver, sent_twice = guessing(), guessing(off=0.5), 0
    for step in range(8):
        sender.references.clear()  # as if the samples were new
        packet = sender.encode(batch(1), IDS, (0, step), labels=LABELS)
        try:
            receiver.decode(packet, 1 << 20, LABELS)
        except UnknownReference:
            sent_twice += 1
            again = sender.encode(batch(1), IDS, (0, step), self_contained=True, labels=LABELS)
            receiver.decode(again, 1 << 20, LABELS)
    assert sent_twice == sender.num_refused == 4
    resumed = guessing()
    resumed.num_refused = 4
    packet = resumed.encode(batch(1), IDS, (0, 8), labels=LABELS)
    assert guessing(off=0.5).decode(packet, 1 << 20, LABELS).batch.values.isfinite().all()
    assert [record.message for record in caplog.records if "labels no longer predict" in record.message]
