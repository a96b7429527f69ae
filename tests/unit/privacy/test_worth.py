"""What result.json says of noise: for whom it holds, and how often it was drawn."""

from types import SimpleNamespace

import pytest

from splitcom.config import Config
from splitcom.methods.privacy import privacy_of, privacy_warnings
from splitcom.metrics.participation import Participation
from splitcom.privacy import epsilon

pytest.importorskip("dp_accounting")


def federation(aggregator, merges=3, updates=0, **settings):
    config = Config().override({"federation.aggregator": aggregator, "federation.min_clients": 2, **settings})
    took_part = Participation({"a": [[1, 2]], "b": [[2, 2]]})
    return SimpleNamespace(
        config=config,
        states={"a": SimpleNamespace(num_released=40, num_updates=updates)},
        merges=SimpleNamespace(read=lambda: merges),
        round=2,
        participation=took_part,
    )


def test_noise_at_the_server_holds_towards_other_clients_and_counts_repeated_rounds():
    told = privacy_of(federation("dp_fedavg(0.5, noise=2)"))["privacy"]["adapters"]

    assert told["towards_others"] == {"epsilon": epsilon(2.0, 3, 1e-5), "delta": 1e-5, "releases": 3}
    assert told["towards_the_server"]["epsilon"] is None


def test_rounds_in_which_fronts_rest_hide_no_repeated_one():
    rests = {
        "flows.activation_up.codec": "temporal(0.98) > fp16",
        "flows.activation_up.controller": "freeze(0.98, 0.99, rest=1)",
    }
    told = privacy_of(federation("dp_fedavg(0.5, noise=2)", merges=2, **rests))["privacy"]["adapters"]

    assert told["towards_others"]["releases"] == 3  # two rounds, of which one has merged, twice


def test_noise_of_the_clients_holds_towards_the_server_as_far_as_each_adds_it():
    told = privacy_of(federation("dp_fedavg(0.5, noise=2, where=clients)", merges=2, updates=5))["privacy"][
        "adapters"
    ]

    assert told["towards_others"]["epsilon"] == epsilon(2.0, 5, 1e-5)
    assert told["towards_the_server"]["epsilon"] == epsilon(2.0 / 2**0.5, 5, 1e-5)


def test_a_seed_is_worth_nothing_and_warned_of():
    run = federation("dp_fedavg(0.5, noise=2, seed=0)")

    assert privacy_of(run)["privacy"]["adapters"]["towards_others"]["epsilon"] is None
    assert any("seed" in text for text in privacy_warnings(run.config))


def test_a_run_without_noise_says_nothing():
    assert privacy_of(federation("fedavg")) == {} and privacy_warnings(Config()) == []
