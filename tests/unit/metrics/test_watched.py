"""Whether a run folder tells that a process is at it, and what `watch` makes of that."""

import os
import signal
import subprocess
import sys

import pytest

from splitcom.cli.watch import watch
from splitcom.config import Config
from splitcom.errors import RunError
from splitcom.metrics.record import RunFolder

HOLDS = """
import sys, time
from splitcom.metrics.record import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_whose_process_was_killed_is_not_watched_for_ever(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin(Config().to_toml())
    assert not folder.is_locked
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder.path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        assert folder.is_locked and folder.is_locked  # looking takes nothing away
        os.kill(holder.pid, signal.SIGKILL)
    assert not folder.is_locked
    with pytest.raises(RunError, match="has not ended, and no process is at it; go on with it by --resume"):
        watch(folder.path, every=0.1)
