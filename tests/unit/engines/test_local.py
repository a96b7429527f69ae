"""The body's step: with a tail at each of several clients, the gradients are those of the standard form."""

import pytest
import torch

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.engines.engine import Arrival
from splitcom.engines.local import LocalEngine
from splitcom.models import add_lora, load_body, load_tail, replicate
from splitcom.protocol.labels import IGNORED
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
