"""The parts that parties have, where they are more than those that a party runs."""

import numpy as np
import pytest
import torch

from splitcom.config import Config
from splitcom.parties.parts import guesses_from_labels, load_client_parts, load_parts, load_server_parts

QUALITY = {"preset": "quality"}


@pytest.mark.parametrize(
    ("changes", "can"),
    [
        (QUALITY, True),
        ({"preset": "paper"}, False),
        ({"preset": "paper", "evaluation.codec": "predict(guess=labels) > klt > uniform(1) > range"}, True),
        (QUALITY | {"model.tail_blocks": 1}, False),  # the labels stay at the client
        (QUALITY | {"training.split": False}, False),
        (QUALITY | {"data.task": "classification", "data.labels": ["a", "b"]}, False),
        (QUALITY | {"lora.prompt_tokens": 2}, False),
        (QUALITY | {"model.bottleneck": 0.25}, False),
        (QUALITY | {"federation.cuts.every": 1, "federation.cuts.most": 2}, False),
    ],
)
def test_labels_tell_of_activations_where_the_server_has_them_and_the_front_is_the_base_models(changes, can):
    assert guesses_from_labels(Config().override(changes)) is can


def test_a_server_that_has_no_front_loads_the_base_models_for_guesses():
    config, labels = Config().override(QUALITY), {0: np.array([-100, -100, 7, 8, 9])}
    found = [
        load(config).label_front.guess(labels).of([0], np.array([5]))
        for load in (load_server_parts, load_client_parts, load_parts)
    ]
    assert [tokens.tolist() for tokens, _ in found] == 3 * [[False, False, True, True, True]]
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][1], found[2][1])
