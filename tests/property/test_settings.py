"""Any configuration is the same after it has been written and read, None or not, and no number is what it cannot be."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom.config import Config, LinkConfig
from splitcom.errors import ConfigError
from splitcom.settings import Section
from splitcom.settings.types import is_optional

# What an optional setting may be beside None; together they are a configuration that holds.
VALUES: dict[str, Any] = {
    **{"lora.cut_rank": 4, "federation.cuts.every": 2, "federation.cuts.most": 5},
    "lora.targets": ["q_proj"],
    "data.domain": "restaurants",
    "data.labels": ["yes", "no"],
    "federation.names": ["clinic-a", "clinic-b", "clinic-c"],
    "data.samples": 30,
    "data.chat_template": "chatml",
    "data.held_out_by": "clinic",
    "data.held_out": "held out.csv",
    "partition.column": "clinic",
    "lora.init": "/runs/adapter",
    "lora.modules_to_save": ["embed_tokens"],
    "federation.secure_aggregation": 0.6,
    "federation.variance.estimate": "linear",
    "federation.variance.max_chunks": 4,
    "client.bypass_epochs": 2,
    "client.keep": 0.5,
    "model.bottleneck": 0.25,
    "client.mixing": 1.0,
    "evaluation.share": 0.1,
    "flows.adapter_up.codec_a": "fp16",
    "flows.adapter_down.codec_a": "fp16",
    "training.max_steps": 40,
    "training.clip_norm": 0.5,
    "client.clip_update": 1.0,
    "client.privacy": "gaussian(0.5, 60.0)",
    "client.label_noise": "randomised(1.0)",
    "client.proximal": 0.01,
    "model.quantization": "8bit",
    "engine.devices": ["cuda:0", "cuda:1"],
    "engine.max_tokens_per_pass": 64,
    "engine.ray.address": "10.0.0.1:6379",
    "engine.ray.actors": 4,
    "engine.processes": 2,
    "federation.drop_after_s": 3.0,
    "federation.step_timeout_s": 90.0,
    "federation.max_restarts": 3,
    "federation.max_update_ratio": 4.0,
    "federation.max_weight_ratio": 8.0,
    "federation.max_gradient_ratio": 2.0,
    "federation.deadline_s": 2.0,
    "control.controller": "bangbang(0.95, 0.995)",
    "control.start_from": "/runs/before",
    "references.limit_mb": 1.5,
    "flows.activation_up.controller": "fixed(0.9)",
    "flows.activation_down.controller": "fixed(0.9)",
    "flows.gradient_up.controller": "fixed(0.9)",
    "flows.gradient_down.controller": "fixed(0.9)",
    "flows.adapter_up.controller": "fixed(0.9)",
    "flows.adapter_down.controller": "fixed(0.9)",
    **{f"links.{name}": 1.5 for name in ("up_mbps", "down_mbps", "step_s", "server_step_s")},
}
TEMPORAL = {
    f"flows.{flow}.codec": "temporal(0.98) > int8"
    for flow in ("gradient_down", "gradient_up", "activation_down")
}


def settings(cls: type[Section], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting below a section, by its dotted name."""
    for name, field in cls.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from settings(kind, f"{path}{name}.")
        else:
            yield f"{path}{name}", field


SETTINGS = dict(settings(Config))
OPTIONAL = [key for key, field in SETTINGS.items() if is_optional(field)]


def is_number(field: Any, kind: type) -> bool:
    return kind is field.annotation or any(
        part is kind or getattr(part, "__origin__", None) is kind for part in get_args(field.annotation)
    )


FLOATS = [key for key, field in SETTINGS.items() if is_number(field, float)]
INTEGERS = [key for key, field in SETTINGS.items() if is_number(field, int)]


@given(
    chosen=st.fixed_dictionaries(
        {}, optional={key: st.sampled_from([None, VALUES[key]]) for key in OPTIONAL}
    ),
    links=st.dictionaries(
        st.sampled_from(["client-0", "client-2"]),
        st.builds(
            LinkConfig,
            up_mbps=st.none() | st.floats(0.001, 1e9),
            step_s=st.none() | st.just(0.0) | st.floats(1e-9, 1e6),
        ),
    ),
    changed=st.dictionaries(st.sampled_from(OPTIONAL), st.none() | st.integers(), max_size=2),
)
def test_any_configuration_is_written_and_read_as_it_is(chosen, links, changed):
    if chosen.get("control.controller") is not None:  # which needs a flow without one of its own
        chosen["flows.gradient_down.controller"] = None
    if chosen.get("data.held_out_by") is not None:  # one of the two says which rows are held out
        chosen["data.held_out"] = None
    # clients that hold different parts of the adapter need rounds of whole ones, and cuts that move a largest one
    if chosen.get("lora.cut_rank") is not None or chosen.get("federation.cuts.every") is not None:
        chosen |= {"federation.secure_aggregation": None, "federation.variance.estimate": None}
        chosen |= {"federation.deadline_s": None, "client.mixing": None, "federation.cuts.most": 5}
        chosen["model.bottleneck"] = None
    # under masks all updates are seen together, and alike
    if chosen.get("federation.secure_aggregation") is not None:
        chosen |= {"federation.max_update_ratio": None, "federation.deadline_s": None}
        chosen |= {"federation.variance.estimate": None, "flows.adapter_up.codec_a": None}
        chosen["flows.adapter_up.codec"] = "none"
    # rounds of chunks wait for all, and nobody knows how long they will be
    if chosen.get("federation.variance.estimate") is not None:
        chosen["federation.deadline_s"] = chosen["training.max_steps"] = None
    config = Config().override(
        {
            "data.task": "classification",
            "preset": "paper",
            **TEMPORAL,
            **chosen,
            "clients": {name: {"link": link} for name, link in links.items()},
            "comparison.variants": [{"name": "one", "set": changed}],
        }
    )
    read = Config.from_toml(config.to_toml())
    assert read == config
    for key, value in chosen.items():
        found: Any = read
        for part in key.split("."):
            found = getattr(found, part)
        assert (value is None and found is None) or found is not None


def test_no_setting_is_both_a_bool_and_none():
    assert not [key for key in OPTIONAL if bool in get_args(SETTINGS[key].annotation)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -1e-9, True, "0.5"])
@pytest.mark.parametrize("key", FLOATS)
def test_a_float_is_a_finite_number_that_is_not_negative(key, value):
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        Config().override({key: value})


@pytest.mark.parametrize("value", [-1, True, 1.5, "3"])
@pytest.mark.parametrize("key", INTEGERS)
def test_an_integer_is_one_that_is_not_negative(key, value):
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        Config().override({key: value})


def test_the_settings_are_found():
    assert {"lora.alpha", "training.clip_norm", "federation.asynchronous.mixing", "links.up_mbps"} <= set(
        FLOATS
    )
    assert {"seed", "data.samples", "evaluation.beams"} <= set(INTEGERS)
