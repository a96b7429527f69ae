"""Clients that differ: in batch, device and link; in process and over the network."""

import pytest

from splitcom.config import Config

from .halting import adapter_of, same

OWN = {"clients.client-1.batch_size": 2, "clients.groups": [{"names": ["client-[02]"], "batch_size": 5}]}


def test_values_given_for_each_client_are_those_given_for_all_to_the_bit(tiny_config, trained):
    every = {"clients.groups": [{"names": ["client-*"], "batch_size": 3, "device": "cpu"}]}
    one, other = (
        trained(tiny_config.override(every)),
        trained(tiny_config.override({"training.batch_size": 3})),
    )
    assert same(adapter_of(one), adapter_of(other))
    assert one.result["eval"] == other.result["eval"]
    assert one.result["bytes"] == other.result["bytes"]


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_each_client_trains_in_batches_of_its_own(tiny_config, trained, tail_blocks):
    run = trained(tiny_config.override(OWN | {"model.tail_blocks": tail_blocks}))
    steps = {line["client"]: line["steps"] for line in run.metrics if line["round"] == 1}
    assert steps == {"client-0": 2, "client-1": 4, "client-2": 2}  # of 9, 8 and 8 samples


def test_a_client_is_told_its_own_values_and_nobody_elses():
    config = Config().override(OWN)
    told = Config.from_toml(config.told("client-1"))
    assert told.training.batch_size == 2 and not told.clients.given
    assert "client-0" not in config.told("client-1")
