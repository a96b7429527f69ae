"""The file of saved references."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from splitcom.codecs import MemoryReferences
from splitcom.codecs.references import FlowState
from splitcom.errors import CodecError


def saved(path: Path) -> Path:
    store = MemoryReferences("fp32")
    new = np.array([True, True])
    store.update([7, 3], np.array([1, 2]), torch.arange(6.0).view(3, 2), changed=new, known=~new)
    store.flow = FlowState(5, {"counts": np.arange(6).reshape(2, 3)})
    store.save(path)
    return path


def test_the_file_is_plain_safetensors_in_the_order_of_use(tmp_path: Path) -> None:
    tensors = load_file(saved(tmp_path / "references"))
    assert tensors["ids"].tolist() == [7, 3] and tensors["lengths"].tolist() == [1, 2]
    assert tensors["values"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("missing", ["ids", "values", "flow.shape.counts", "basis"])
def test_a_file_that_lacks_something_is_refused_and_nothing_is_kept(tmp_path: Path, missing: str) -> None:
    path = saved(tmp_path / "references")
    tensors = load_file(path)
    del tensors[missing]
    save_file(tensors, path)
    store = MemoryReferences("fp32")
    with pytest.raises(CodecError, match=f"cannot read references from {path}"):
        store.load(path)
    assert len(store) == 0 and store.flow is None and store.basis is None


def test_a_flow_state_whose_shape_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "references")
    tensors = load_file(path)
    tensors["flow.shape.counts"] += 1
    save_file(tensors, path)
    with pytest.raises(CodecError, match="cannot read references"):
        MemoryReferences("fp32").load(path)
