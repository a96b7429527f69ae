"""Runs whose clients send under noise: what result.json says of it, and that it is what has been sent."""

import pytest

from splitcom.errors import ConfigError, MissingExtraError
from splitcom.methods import privacy
from splitcom.methods.run import train
from splitcom.parties.texts import load_texts
from splitcom.privacy import epsilon


@pytest.fixture(scope="module", autouse=True)
def accountant():
    pytest.importorskip("dp_accounting")


def test_epsilon_of_a_run_is_that_of_all_that_has_left_of_its_longest_sample(tiny_config, tmp_path):
    config = tiny_config.override({"client.privacy": "gaussian(2.0, clip=5, delta=1e-5)"})

    run = train(config, tmp_path / "run")

    told = run.result["privacy"]["activations"]
    texts = load_texts(config)
    trained, held_out = (
        max(len(sample.input_ids) for sample in part.samples) for part in (texts.train, texts.held_out)
    )
    assert config.training.rounds == 2 and config.training.local_epochs == 1
    assert told["sample"]["releases"] == max(2 * trained, 3 * held_out), (
        "three evaluations, and the last exact one again"
    )
    assert told["sample"]["epsilon"] == epsilon(1.0, told["sample"]["releases"], 1e-5)
    assert told["vector"]["epsilon"] == epsilon(1.0, 1, 1e-5)
    assert any(text.startswith("labels") for text in told["not_covered"])
    assert any("client.privacy" in warning for warning in run.result["warnings"])


def test_noise_from_a_seed_is_worth_nothing_and_ends_with_the_same_bits(tiny_config, tmp_path):
    config = tiny_config.override(
        {
            "client.privacy": "gaussian(0.05, clip=50, gradients=0.5, seed=1)",
            "model.tail_blocks": 1,
            "training.rounds": 1,
        }
    )

    runs = [train(config, tmp_path / name) for name in ("one", "other")]

    assert runs[0].result["eval"] == runs[1].result["eval"]
    assert runs[0].result["privacy"]["activations"]["sample"]["epsilon"] is None
    assert runs[0].result["privacy"]["activations"]["sample"]["releases"] > 0


def test_what_cannot_be_private_is_refused(tiny_config):
    with pytest.raises(ConfigError, match="gradients"):
        tiny_config.override({"client.privacy": "gaussian(1, clip=1)", "model.tail_blocks": 1})
    with pytest.raises(ConfigError, match="nothing does"):
        tiny_config.override({"client.privacy": "gaussian(1, clip=1)", "training.split": False})


def test_without_the_accountant_nothing_is_trained(tiny_config, tmp_path, monkeypatch):
    def missing():
        raise MissingExtraError("accounting of privacy", "privacy", ImportError("none"))

    monkeypatch.setattr(privacy, "check_accountant", missing)
    config = tiny_config.override({"client.privacy": "gaussian(1, clip=1)"})

    with pytest.raises(MissingExtraError, match=r"splitcom\[privacy\]"):
        train(config, tmp_path / "run")
