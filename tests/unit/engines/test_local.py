"""The body's step, in one pass or several; with tails at several clients, gradients are those of the standard form."""

from dataclasses import replace

import pytest
import torch

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.data import IGNORED
from splitcom.engines.engine import Arrival
from splitcom.engines.local import LocalEngine
from splitcom.engines.passes import Rows
from splitcom.errors import NonFiniteError
from splitcom.models import add_lora, load_body, load_tail, replicate
from splitcom.training.loss import losses_through

CLIENTS = {"a": [9, 4], "b": [7], "c": [3, 12, 5]}  # tokens of each sample


@pytest.fixture
def config(tiny_model):
    changes = {"model.source": str(tiny_model), "model.device": "cpu", "training.clip_norm": 1e9}
    return Config().override(changes)


def batch_of(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), 32, generator=generator)
    ids = list(range(len(lengths)))
    labels = {}
    for sample, length in enumerate(lengths):
        row = torch.randint(0, 200, (length,), generator=generator).numpy()
        row[: length // 3] = IGNORED
        labels[sample] = row
    ragged = Ragged(values, torch.tensor(lengths))
    return Decoded(ragged, ids, torch.zeros(len(ids), dtype=torch.bool)), labels


def arrival_of(decoded, labels=None):
    return Arrival(decoded, list((labels or {}).values()))


def with_lora(part):
    add_lora(part, 4, seed=1)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return part


def through(tail, hidden, labels):
    """What a client does: its tail's gradient of the mean loss over its own labelled tokens."""
    mask = (torch.arange(max(hidden.lengths)) < hidden.lengths[:, None]).long()
    padded = hidden.to_padded(mask).requires_grad_()
    targets = torch.full(mask.shape, IGNORED)
    for row, own in labels.items():
        targets[row, : len(own)] = torch.from_numpy(own)
    losses = losses_through(tail, padded, mask, targets).losses
    losses.mean().backward()
    return Ragged.from_padded(padded.grad, mask), len(losses)


def test_bodies_and_fronts_of_both_forms_get_the_same_gradients(tiny_model, config):
    batches = {name: batch_of(lengths, seed) for seed, (name, lengths) in enumerate(CLIENTS.items())}
    standard = LocalEngine(with_lora(load_body(tiny_model, 2)), config)
    arrivals = {name: arrival_of(decoded, labels) for name, (decoded, labels) in batches.items()}
    expected = standard.step(arrivals, (1, 0), 0.5)

    between = LocalEngine(with_lora(load_body(tiny_model, 2, 1)), config)
    tail = with_lora(load_tail(tiny_model, 1))
    passage = between.forward({name: arrival_of(decoded) for name, (decoded, _) in batches.items()}, (1, 0))
    tails = {name: replicate(tail) for name in batches}
    gradients = {
        name: through(tails[name], passage.out_of(name), labels) for name, (_, labels) in batches.items()
    }
    results = between.backward(passage, gradients, 0.5)
    for name, result in results.items():
        assert result.num_labels == expected[name].num_labels
        assert torch.equal(result.gradient.lengths, expected[name].gradient.lengths)
        scale = expected[name].gradient.values.abs().max()
        assert (result.gradient.values - expected[name].gradient.values).abs().max() < 1e-5 * scale
    # A tenth of the gradient is AdamW's first moment after one step; the tensors of its first blocks come first.
    moments = [{k: v for k, v in one.state().items() if k.endswith("exp_avg")} for one in (standard, between)]
    assert 0 < len(moments[1]) < len(moments[0])
    for key, moment in moments[1].items():
        other = moments[0][key]
        assert (moment - other).abs().max() <= 1e-5 * other.abs().max()


def test_a_client_that_is_lost_between_the_passes_leaves_the_step_to_the_others(tiny_model, config):
    (decoded, labels), (other, _) = batch_of([5, 8], 1), batch_of([11], 2)
    gradients = {}
    for names in (["here"], ["here", "gone"]):
        body = LocalEngine(with_lora(load_body(tiny_model, 2, 1)), config)
        admitted = {"here": arrival_of(decoded), "gone": arrival_of(other)}
        passage = body.forward({name: admitted[name] for name in names}, (1, 0))
        tail = with_lora(load_tail(tiny_model, 1))
        back = {"here": through(tail, passage.out_of("here"), labels)}
        gradients[len(names)] = body.backward(passage, back, 0.5)["here"].gradient.values
    assert torch.allclose(gradients[1], gradients[2], atol=1e-7)


def one_step(tiny_model, config, tail_blocks):
    """The gradients of all clients and AdamW's moments, after a step of either form."""
    engine = LocalEngine(with_lora(load_body(tiny_model, 2, tail_blocks)), config)
    batches = {name: batch_of(lengths, seed) for seed, (name, lengths) in enumerate(CLIENTS.items())}
    if not tail_blocks:
        arrivals = {name: arrival_of(*batch) for name, batch in batches.items()}
        results = engine.step(arrivals, (1, 0), 0.5)
    else:
        arrivals = {name: arrival_of(decoded) for name, (decoded, _) in batches.items()}
        passage = engine.forward(arrivals, (1, 0))
        tail = with_lora(load_tail(tiny_model, 1))
        back = {name: through(tail, passage.out_of(name), labels) for name, (_, labels) in batches.items()}
        results = engine.backward(passage, back, 0.5)
    found = {name: result.gradient.values for name, result in results.items()}
    return found | {k: v for k, v in engine.state().items() if k.endswith("exp_avg")}, results


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_several_passes_give_the_gradients_of_one(tiny_model, config, tail_blocks):
    whole, results = one_step(tiny_model, config, tail_blocks)
    for limit in (1, 12, 30):  # each sample alone, those of similar lengths together, two passes
        split, others = one_step(
            tiny_model, config.override({"engine.max_tokens_per_pass": limit}), tail_blocks
        )
        assert split.keys() == whole.keys()
        for key, expected in whole.items():
            assert (split[key] - expected).abs().max() <= 1e-5 * expected.abs().max(), (limit, key)
        for name, result in results.items():
            assert others[name].num_labels == result.num_labels
            assert others[name].loss_sum == pytest.approx(result.loss_sum, rel=1e-5)


@pytest.mark.parametrize("limit", [None, 12])
@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_bounded_parts_that_are_like_the_others_give_the_gradients_of_one_pass(
    tiny_model, config, tail_blocks, limit
):
    whole, _ = one_step(tiny_model, config, tail_blocks)
    bounded = {"federation.max_gradient_ratio": 100.0, "engine.max_tokens_per_pass": limit}
    split, _ = one_step(tiny_model, config.override(bounded), tail_blocks)
    assert split.keys() == whole.keys()
    for key, expected in whole.items():
        assert (split[key] - expected).abs().max() <= 1e-5 * expected.abs().max(), key


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_a_step_that_fits_one_pass_has_the_bits_of_one(tiny_model, config, tail_blocks):
    whole, _ = one_step(tiny_model, config, tail_blocks)
    fits = config.override({"engine.max_tokens_per_pass": 6 * 12})
    assert all(
        torch.equal(value, whole[key]) for key, value in one_step(tiny_model, fits, tail_blocks)[0].items()
    )


@pytest.mark.parametrize("limit", [None, 12])
def test_dropout_is_drawn_anew_to_the_same_bits_when_a_passage_is_run_again(tiny_model, config, limit):
    config = config.override({"engine.max_tokens_per_pass": limit})

    def gradients(attempts):
        part = load_body(tiny_model, 2, 1)
        add_lora(part, 4, dropout=0.5, seed=1)
        engine = LocalEngine(part, config)
        batches = {name: batch_of(lengths, seed) for seed, (name, lengths) in enumerate(CLIENTS.items())}
        passage = engine.forward(
            {name: arrival_of(decoded) for name, (decoded, _) in batches.items()}, (1, 0)
        )
        back = {name: (passage.out_of(name), 3) for name in batches}
        spoilt = back | {"c": (Ragged(back["c"][0].values * torch.inf, back["c"][0].lengths), 3)}
        for _ in range(attempts):
            with pytest.raises(NonFiniteError, match="training has diverged"):
                engine.backward(passage, spoilt, 0.5)
        return {n: r.gradient.values for n, r in engine.backward(passage, back, 0.5).items()} | engine.state()

    first, again = gradients(0), gradients(2)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_step_that_is_not_finite_changes_nothing_also_in_its_last_pass(tiny_model, config):
    engine = LocalEngine(
        with_lora(load_body(tiny_model, 2)), config.override({"engine.max_tokens_per_pass": 12})
    )
    good, (decoded, labels) = arrival_of(*batch_of([5, 8], 1)), batch_of([11], 2)
    decoded.batch.values[0] = torch.nan
    bad, before = arrival_of(decoded, labels), {k: v.clone() for k, v in engine.state().items()}
    with pytest.raises(NonFiniteError, match="training has diverged"):
        engine.step({"a": good, "b": bad}, (1, 0), 0.5)
    assert engine.state().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in engine.state().items())
    assert engine.is_sound(good) and not engine.is_sound(bad)
    alone = LocalEngine(with_lora(load_body(tiny_model, 2)), config)
    for one in (engine, alone):
        one.step({"a": good}, (1, 1), 0.5)
    assert all(torch.allclose(value, alone.state()[key], atol=1e-6) for key, value in engine.state().items())


def test_an_evaluation_in_several_passes_is_that_in_one(tiny_model, config):
    results = []
    for limit in (None, 12):
        body = with_lora(load_body(tiny_model, 2))
        engine = LocalEngine(body, config.override({"engine.max_tokens_per_pass": limit}))
        results.append(engine.evaluate(arrival_of(*batch_of([9, 4, 12], 1))))
    one, several = results
    assert (one.num_labels, one.num_correct) == (several.num_labels, several.num_correct)
    assert several.loss_sum == pytest.approx(one.loss_sum, rel=1e-6)


def test_clients_that_enter_at_blocks_of_their_own_get_the_gradients_of_a_body_that_begins_there(
    tiny_model, config
):
    cuts = {"a": 1, "b": 3, "c": 2}
    own = {f"client-{index}": {"cut": cut} for index, cut in enumerate(cuts.values())}
    whole = with_lora(load_body(tiny_model, 1))
    names = [name for name, parameter in whole.named_parameters() if parameter.requires_grad]
    engine = LocalEngine(whole, config.override({"clients": own}))
    arrivals = {
        name: replace(arrival_of(*batch_of(lengths, seed)), cut=cuts[name])
        for seed, (name, lengths) in enumerate(CLIENTS.items())
    }
    results = engine.step(arrivals, (1, 0), 0.5)
    total = sum(result.num_labels for result in results.values())
    expected = dict.fromkeys(names, torch.zeros(()))
    for name, arrival in arrivals.items():
        body = with_lora(load_body(tiny_model, cuts[name])).train()
        rows = list(range(arrival.num_samples))
        one = Rows({name: arrival}).take(rows, torch.device("cpu"), torch.float32)
        one.hidden.requires_grad_()
        losses = losses_through(body, one.hidden, one.mask, one.labels).losses
        losses.mean().backward()
        assert results[name].loss_sum == pytest.approx(float(losses.sum().detach()), rel=1e-6)
        at_cut = Ragged.from_padded(one.hidden.grad, one.mask).values
        assert torch.allclose(results[name].gradient.values, at_cut, rtol=1e-4, atol=1e-8)
        for tensor, parameter in body.named_parameters():
            if parameter.requires_grad:
                expected[tensor] = expected[tensor] + parameter.grad * (len(losses) / total)
    before, state = engine.adapter(), {key: tensor.clone() for key, tensor in engine.state().items()}
    still = {name: replace(arrival, trains_front=False) for name, arrival in arrivals.items()}
    assert all(result.gradient is None for result in engine.step(still, (1, 1), 0.5).values())
    moved = {name for name, tensor in engine.adapter().items() if not torch.equal(tensor, before[name])}
    assert {name.split("layers.")[1][0] for name in moved} == {"3"}  # others are in fronts, which stand still
    for index, name in enumerate(names):  # a tenth of the gradient is AdamW's first moment after one step
        found = state[f"optimizer.{index}.exp_avg"]
        assert (found - expected[name] / 10).abs().max() <= 1e-5 * found.abs().max(), name
