"""Rows and samples on the disk: few are in memory, and nothing of them is left behind."""

import errno
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from splitcom.data import Row, Sample, StoredRows, batches, encode, read_rows, told
from splitcom.data.store import Picked, Spool, scratch_folder
from splitcom.errors import DataError

NUMBER = 3000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"q": f"fox {i}", "a": "dog"}) + "\n" for i in range(NUMBER)))
    return path


def rows_of(path: Path) -> Iterator[Row]:
    return read_rows(path, template="{q}", response_column="a")


def alive(kind: type) -> int:
    return sum(isinstance(one, kind) for one in gc.get_objects())


def test_few_rows_and_samples_are_in_memory_at_a_time(path, metaspace):
    most: dict[str, int] = {}

    def count(what, kind):
        return lambda done, total: most.__setitem__(what, max(most.get(what, 0), alive(kind)))

    before = alive(Row)
    rows = StoredRows(told(rows_of(path), 0, count("read", Row)))
    samples = encode(rows, metaspace, on_progress=count("encoded", Row)).samples
    assert len(samples) == NUMBER and samples[7].row.prompt == "fox 7"
    for step, _ in enumerate(batches(samples, 4, seed=0)):
        if step % 250 == 0:
            count("batches", Sample)(0, 0)
    assert most["read"] < before + 50 and most["encoded"] < before + 600 and most["batches"] < 50


def test_a_slice_and_what_is_taken_keep_an_order_of_their_own():
    items = Picked(str, np.array([4, 2, 9]))
    assert list(items[1:]) == ["2", "9"] and list(items[::-1][:2].take(np.array([1, 0]))) == ["2", "9"]
    assert items[-1] == "9" and len(items) == 3 and pickle.loads(pickle.dumps(items)) == ["4", "2", "9"]
    with pytest.raises(IndexError):
        items[3]


def test_a_killed_process_leaves_nothing_and_the_next_one_begins_anew(path, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = (
        "import os, signal, sys\n"
        "from splitcom.data import StoredRows, read_rows, told\n"
        "def die(done, total):\n"
        "    print(done, os.listdir(os.environ['TMPDIR']), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "StoredRows(told(read_rows(sys.argv[1], template='{q}', response_column='a'), 0, die))\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "1000 []\n")
    assert not list(scratch.iterdir())
    assert len(StoredRows(rows_of(path))) == NUMBER


class FullDisk:
    def seek(self, place):
        pass

    def write(self, piece):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_with_the_folder_and_the_remedy(monkeypatch):
    spool = Spool()
    monkeypatch.setattr(spool, "_pieces", FullDisk())
    with pytest.raises(DataError, match=rf"{scratch_folder()}: rows cannot be kept .*No space.*TMPDIR"):
        spool.append(b"x")
    assert len(spool) == 0


def test_rows_lie_in_a_folder_that_is_asked_for_or_is_not_in_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert scratch_folder() == str(tmp_path)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.access", lambda folder, mode: folder == "/var/tmp")
    assert scratch_folder() == "/var/tmp"
