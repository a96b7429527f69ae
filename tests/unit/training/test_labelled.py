"""What labels alone tell of activations: the base front's values of filled-up ids, whatever has been learnt."""

import numpy as np
import pytest
import torch

from splitcom.data import IGNORED
from splitcom.models import base_front, load_front
from splitcom.models.adapters import add_lora
from splitcom.training.labelled import LabelFront

LABELS = {
    3: np.array([IGNORED, IGNORED, IGNORED, 11, 12, 13, 14]),
    7: np.array([IGNORED, 5, 6, IGNORED, IGNORED, 8]),
    8: np.array([IGNORED, IGNORED]),  # nothing is learnt from it
}
LENGTHS = np.array([7, 6, 2])
FILLED = {3: [11, 12, 13, 11, 12, 13, 14], 7: [5, 5, 6, 6, 8, 8], 8: [0, 0]}


@pytest.fixture(scope="module")
def front():
    return load_front("bundled", 2)


@torch.no_grad()
def expected(front, ids):
    return torch.cat(
        [front(torch.tensor([FILLED[i]]))[0][torch.from_numpy(LABELS[i] != IGNORED)] for i in ids]
    )


def test_values_are_those_of_the_base_front_whatever_the_adapter_has_learnt(front):
    adapted = load_front("bundled", 2)
    add_lora(adapted, targets="all-linear", dropout=0.5)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    adapted.train()
    label_front = LabelFront(base_front(adapted))
    tokens, values = label_front.guess(LABELS).of([7, 3, 8], LENGTHS[[1, 0, 2]])
    assert tokens.tolist() == [(LABELS[i] != IGNORED)[t] for i in (7, 3, 8) for t in range(len(LABELS[i]))]
    assert torch.allclose(values, expected(front, [7, 3, 8]), atol=1e-5)
    assert adapted.training and any(parameter.requires_grad for parameter in adapted.parameters())


def test_many_samples_run_in_several_passes_to_the_same_values(front, monkeypatch):
    label_front = LabelFront(base_front(front))
    _, whole = label_front.guess(LABELS).of([3, 7, 8], LENGTHS)
    monkeypatch.setattr("splitcom.training.labelled._TOKENS_PER_PASS", 8)
    _, apart = label_front.guess(LABELS).of([3, 7, 8], LENGTHS)
    assert torch.allclose(whole, apart, atol=1e-5)


def test_a_front_of_16_bits_computes_in_fp32_with_its_own_weights():
    narrow = load_front("bundled", 2, torch.bfloat16)
    wide = load_front("bundled", 2, torch.bfloat16).float()
    _, values = LabelFront(base_front(narrow)).guess(LABELS).of([3, 7, 8], LENGTHS)
    assert values.dtype == torch.float32
    assert torch.allclose(values, expected(wide, [3, 7, 8]), atol=1e-5)
    assert narrow.dtype == torch.bfloat16


def test_a_client_of_fewer_blocks_has_their_values(front):
    label_front = LabelFront(base_front(front))
    assert label_front.at(2) is label_front and label_front.at(1) is label_front.at(1)
    _, values = label_front.at(1).guess(LABELS).of([3, 7, 8], LENGTHS)
    assert torch.allclose(values, expected(load_front("bundled", 1), [3, 7, 8]), atol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        {3: LABELS[3]},
        {3: LABELS[3], 7: LABELS[7][:-1]},
        {3: LABELS[3], 7: np.where(LABELS[7] == 5, 1 << 20, LABELS[7])},
    ],
)
def test_labels_that_are_missing_or_of_other_texts_tell_nothing(front, labels):
    assert LabelFront(base_front(front)).guess(labels).of([3, 7], LENGTHS[:2]) is None
