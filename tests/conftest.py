"""A tiny model, made here, and where real models and data are."""

import os
from pathlib import Path

import pytest
import torch

from splitcom.config import Config

from .integration.tiny_model import write_tiny_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data; skips where there is none."""
    folder = Path(os.environ.get("SPLITCOM_ASSETS", Path(__file__).parents[1] / ".." / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"no real models and data at {folder}; set SPLITCOM_ASSETS to their folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of four blocks with random weights, and a tokenizer for the generated data."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def tiny_config(tiny_model: Path) -> Config:
    """Three clients of unequal numbers of batches, two rounds, a few seconds."""
    return Config().override(
        {
            "model.source": str(tiny_model),
            "model.device": "cpu",
            "data.samples": 25,
            "data.held_out_samples": 7,
            "training.rounds": 2,
            "training.batch_size": 4,
            "training.lr": 1e-2,
            "evaluation.batch_size": 4,
            "evaluation.generate": 0,
        }
    )
