"""A tiny model, made here, and where real models and data are."""

import gc
import os
import random
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes of tests

import numpy as np
import pytest
import torch
from _pytest.doctest import DoctestModule
from hypothesis import HealthCheck, settings

from splitcom.config import Config

from .integration.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from splitcom.methods.run import Run

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
# No test pulls the plug, and a short training would wait for the disk 200 times.
os.fsync = lambda descriptor: None
# The same examples each time, so that no run fails by chance; other ones with --hypothesis-profile=default.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Files of tests are not searched for doctests: one that cannot be imported would be skipped as such, silently."""
    found = yield
    if file_path.name.startswith("test_"):
        return [collector for collector in found if not isinstance(collector, DoctestModule)]
    return found


def pytest_sessionstart() -> None:
    """Collecting makes a million objects that all stay; to look through them again and again is half of its time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on garbage is collected, and what is there is never looked at again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Files belong into `tmp_path`: what a test leaves in the repository's root is committed one day."""
    before = {path.name for path in ROOT.iterdir()}
    yield
    left = {path.name for path in ROOT.iterdir()} - before
    assert not [name for name in left if not name.startswith(".")], f"left in {ROOT}"


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """What a test draws from the global generators is the same whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # see seed_dropout: torch.manual_seed takes a millisecond


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
    """Three clients of unequal numbers of batches, two rounds, a few seconds; codecs that take no time."""
    return Config().override(
        {
            "preset": "paper",
            "flows.adapter_up.codec": Config().flows.codec("adapter_up"),
            "flows.adapter_down.codec": Config().flows.codec("adapter_down"),
            "evaluation.codec": "delta > int8 > zstd",
            "model.source": str(tiny_model),
            "model.device": "cpu",
            "lora.targets": None,
            "data.samples": 25,
            "data.held_out_samples": 7,
            "training.rounds": 2,
            "training.batch_size": 4,
            "training.lr": 1e-2,
            "evaluation.batch_size": 4,
            "evaluation.generate": 0,
        }
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> "Callable[..., Run]":
    """Trains a configuration, and only once: whoever asks for the same one gets the same run.

    That one is to look at; given a folder, it is copied there, to do with as one likes.
    """
    from splitcom.methods.run import train  # takes seconds

    runs: dict[str, Run] = {}

    def run_of(config: Config, folder: Path | None = None) -> "Run":
        key = config.to_toml()
        if key not in runs:
            runs[key] = train(config, tmp_path_factory.mktemp("trained") / "run")
        if folder is None:
            return runs[key]
        return replace(runs[key], folder=shutil.copytree(runs[key].folder, folder))

    return run_of
