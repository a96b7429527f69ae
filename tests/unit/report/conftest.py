from pathlib import Path

import pytest

from .report_runs import METHODS, make_comparison, make_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    make_run(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def comparison_folder(tmp_path: Path) -> Path:
    return make_comparison(tmp_path / "comparison", methods=METHODS[:5])
