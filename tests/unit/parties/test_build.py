"""The channels of a client: what they keep of what has passed, and where they decode."""

import pytest

from splitcom.config import Config
from splitcom.parties.build import open_channels

PROJECTED = "temporal(0.9) > projection(16)"  # whose sender does not know what the receiver has


@pytest.mark.parametrize(
    "changes, kept",
    [
        ({}, 32),
        ({"lora.train_front": False}, 0),  # no gradient is ever sent
        ({"lora.train_front": False, "lora.prompt_tokens": 2, "model.tail_blocks": 1}, 32),
        ({"flows.activation_up.codec": PROJECTED}, 0),
        ({"flows.gradient_down.codec": "int8"}, 0),
    ],
)
def test_activations_leave_columns_only_if_a_gradient_is_to_be_right_along_them(changes, kept, tmp_path):
    channels = open_channels(Config().override(changes), "client-0", tmp_path)
    assert channels["activation_up"]._num_along == kept


def test_all_flows_arrive_where_the_part_of_the_model_is(tmp_path):
    config = Config().override({"model.tail_blocks": 1})
    channels = open_channels(config, "client-0", tmp_path, "cuda:0")
    assert len(channels) == 8 and {channel.device for channel in channels.values()} == {"cuda:0"}
