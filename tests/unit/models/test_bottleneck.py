"""Two matrices at the cut: what they begin with, and that those of full width change nothing."""

import pytest
import torch

from splitcom.errors import ConfigError
from splitcom.methods.run import configured
from splitcom.parties.parts import load_client_parts, load_parts, load_server_parts

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


def bottle(config, part):
    return config.override({"model.bottleneck": part})


@torch.no_grad()
def logits_of(parts):
    return parts.body(parts.front(IDS))


def test_of_full_width_they_hand_on_what_there_is(tiny_config):
    plain, whole = load_parts(tiny_config), load_parts(bottle(tiny_config, 1.0))
    torch.testing.assert_close(logits_of(whole), logits_of(plain), rtol=1e-4, atol=1e-5)


def test_of_less_they_begin_with_the_largest_directions_alike_everywhere_and_learn(tiny_config):
    config = bottle(tiny_config, 0.25)
    parts, server, client = load_parts(config), load_server_parts(config), load_client_parts(config)
    hidden = parts.front(IDS)
    assert hidden.shape == (2, 5, 8)
    narrows, widens = parts.front.model.bottleneck_narrows, parts.body.model.bottleneck_widens
    torch.testing.assert_close(narrows @ narrows.mT, torch.eye(8), rtol=0, atol=1e-5)
    assert torch.equal(widens, narrows.mT)
    with torch.no_grad():
        whole = load_parts(tiny_config).front(IDS)
        left = (whole @ narrows.mT @ narrows - whole).norm() / whole.norm()
    assert left < 0.84  # of random directions, the root of 3 / 4 would be left over
    parts.body(hidden).square().mean().backward()
    assert narrows.grad.any() and widens.grad.any()
    for front in (server.front, client.front):
        assert torch.equal(front.model.bottleneck_narrows, narrows)
    assert torch.equal(server.body.model.bottleneck_widens, widens)


@pytest.mark.parametrize("changes", [{"model.tail_blocks": 1}, {"training.split": False}])
def test_other_forms_have_none(tiny_config, changes):
    with pytest.raises(ConfigError, match="one cut of the standard form"):
        configured(bottle(tiny_config, 0.25).override(changes))
