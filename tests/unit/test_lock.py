"""A lock is one process's, dies with it, and says who has it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from splitcom.errors import RunError
from splitcom.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from splitcom.lock import locked
with locked(Path(sys.argv[1]), "go away"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_with_the_holders_name_and_let_in_when_it_has_died(tmp_path: Path) -> None:
    path = tmp_path / "folder" / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match=rf"folder: in use by process {holder.pid} on .*: go away"),
            locked(path, "go away"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert path.exists()
    with locked(path, "go away"):
        assert f"process {os.getpid()} on" in path.read_text()
    assert not path.exists()


def test_it_excludes_also_within_a_process_and_waits_where_it_is_to(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, "no"), pytest.raises(RunError, match="in use by process"), locked(path, "no"):
        pass
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("60", "0.5"), str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with locked(path, "no", waits=True):
            assert holder.wait(timeout=180) == 0
