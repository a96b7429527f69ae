"""Whether a batch fits the model."""

import numpy as np
import pytest
import torch

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.server.admission import Admission


def decoded(*lengths, hidden=32):
    batch = Ragged(torch.zeros(sum(lengths), hidden), torch.tensor(lengths))
    return Decoded(batch, list(range(len(lengths))), torch.zeros(len(lengths), dtype=torch.bool))


@pytest.fixture
def admission():
    return Admission(Config(), hidden_size=32, num_labels=300)


@pytest.mark.parametrize("length", [1, 257])
def test_an_activation_of_a_length_that_no_sample_can_have_is_refused(admission, length):
    with pytest.raises(RemoteProtocolError, match=f"an activation of {length} tokens?; expected 2 to 256"):
        admission.admit(decoded(length), None)


@pytest.mark.parametrize(
    ("batch", "labels", "message"),
    [
        (decoded(3, hidden=31), {0: [1, 2, 3]}, "width 31; the model's is 32"),
        (decoded(3, 2), {0: [1, 2, 3]}, r"no labels for sample ids \[1\]"),
        (decoded(3), {0: [1, 2]}, "2 labels for an activation of 3 tokens"),
        (decoded(3), {0: [1, 2, 300]}, "a label of 300; the vocabulary's size is 300"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(admission, batch, labels, message):
    with pytest.raises(RemoteProtocolError, match=message):
        admission.admit(batch, {sample: np.array(row) for sample, row in labels.items()})


def test_what_fits_has_its_labels_in_the_order_of_its_samples(admission):
    rows = {0: np.array([1, 2, 299]), 1: np.array([4, 5])}
    arrival = admission.admit(decoded(3, 2), dict(reversed(rows.items())))
    assert [row.tolist() for row in arrival.labels] == [[1, 2, 299], [4, 5]]
    assert arrival.num_samples == 2 and arrival.trains_front
