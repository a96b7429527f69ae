"""What depends on the model where nobody says anything: its steps on its width, whether fronts learn on their part."""

import pytest

from splitcom.config import Config
from splitcom.methods import method, splitcom
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


@pytest.fixture
def of_width(monkeypatch):
    """Let all models be so wide."""
    return lambda number: monkeypatch.setattr(method, "width", lambda config: number)


@pytest.mark.parametrize("name", ["splitcom", "split_ft"])
@pytest.mark.parametrize(("width", "preset"), [(255, "fine"), (256, "quality")])
def test_narrow_models_have_finer_steps_if_no_preset_is_asked_for(of_width, name, width, preset):
    of_width(width)
    config = configured(Config(method=name))
    asked = configured(Config(method=name, preset=preset))
    assert config == asked == configured(config)
    assert config.flows.gradient_down == Config(preset=preset).flows.gradient_down


def test_what_was_set_stays_where_a_preset_is_found(of_width):
    of_width(64)
    own = {
        "flows.activation_up.controller": None,
        "flows.adapter_up.codec": "fp16",
        "evaluation.codec": "int8 > zstd",
    }
    config = configured(Config().override(own))
    assert config.flows.activation_up == Config().override(own).flows.activation_up
    assert config.flows.gradient_down == Config(preset="fine").flows.gradient_down
    assert (config.flows.adapter_up.codec, config.evaluation.codec) == ("fp16", "int8 > zstd")
    assert configured(Config(preset="quality")).flows == Config().flows
    assert configured(Config(preset="balanced")) == Config(preset="balanced").override(
        {"lora.train_front": True}
    )
