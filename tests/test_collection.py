"""Tests that cannot be collected are errors."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_file_of_tests_that_cannot_be_imported_is_an_error_and_not_skipped(tmp_path):
    folder = tmp_path / "tests"
    (folder / "integration").mkdir(parents=True)
    for name in ("conftest.py", "integration/tiny_model.py"):
        (folder / name).symlink_to(ROOT / "tests" / name)
    (folder / "test_broken.py").write_text(
        "from splitcom import no_such_name\n\n\ndef test_one():\n    pass\n"
    )
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2 and "no_such_name" in run.stdout, run.stdout + run.stderr
