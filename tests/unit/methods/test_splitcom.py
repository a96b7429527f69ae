"""Whether fronts learn where nobody says so: those that are a small part of the model have little to learn."""

import pytest

from splitcom.methods import splitcom
from splitcom.methods.run import configured
from splitcom.methods.splitcom import SPLITCOM


@pytest.fixture
def of_blocks(monkeypatch):
    """Let all models have so many blocks."""
    return lambda number: monkeypatch.setattr(splitcom, "num_blocks", lambda config: number)


@pytest.mark.parametrize(
    ("changes", "blocks", "learns"),
    [
        ({}, 20, False),
        ({}, 19, True),
        ({"preset": "balanced"}, 30, False),
        ({"preset": "paper"}, 30, True),
        ({"flows.activation_up.codec": "int8"}, 30, True),
        ({"lora.train_front": True}, 30, True),
        ({"lora.train_front": False}, 3, False),
        ({"model.tail_blocks": 1}, 30, True),
        ({"lora.prompt_tokens": 2}, 30, True),
        ({"lora.train_body": False, "model.tail_blocks": 1}, 30, True),
        ({"clients": {"client-1": {"cut": 4}}}, 30, True),  # the deepest front counts
        ({"clients": {"client-1": {"cut": 4}}}, 40, False),
        (
            {
                "federation.secure_aggregation": 0.6,
                "federation.max_update_ratio": None,
                "flows.adapter_up.codec": "none",
            },
            30,
            True,
        ),
    ],
)
def test_an_early_front_does_not_learn_unless_something_asks_for_it(
    tiny_config, of_blocks, changes, blocks, learns
):
    of_blocks(blocks)
    config = configured(tiny_config.override({"preset": "quality"} | changes))
    assert config.lora.front_learns == learns
    assert SPLITCOM.configure(config) == config


@pytest.mark.parametrize("method", ["splitlora", "split_lite", "aq_sgd"])
def test_other_methods_train_it(tiny_config, of_blocks, method):
    of_blocks(30)
    assert configured(tiny_config.override({"preset": "quality", "method": method})).lora.front_learns
