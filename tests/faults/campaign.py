"""A campaign of hostile frames in a process of its own, whose memory and time are limited.

    python -m tests.faults.campaign --frames 100000 --seed 1

Prints one JSON object; ends with a traceback and the frame in hexadecimal at the first that breaks a rule.
"""

import argparse
import faulthandler
import json
import resource
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from splitcom.errors import PacketError, RemoteProtocolError, UnknownReference

from .mutate import hostile_frame
from .targets import LIMIT_BYTES, Target, all_targets

REFUSALS = (PacketError, RemoteProtocolError, UnknownReference)
MAX_FRAME_CPU_S = 1.0
HANG_S = 300
MAX_TRACED_BYTES = 16 * LIMIT_BYTES
"""Of Python and numpy together; the largest batch that is believed is LIMIT_BYTES."""
HEADROOM_BYTES = 96 << 20
"""Address space that the campaign may take beyond what it has at its start, torch's memory included."""
_TRACED_SHARE = 16
_PROJECT = Path(__file__).parents[2]


def run(num_frames: int, seed: int, *, timeout_s: float) -> dict[str, dict[str, float]]:
    """Run a campaign in another process; AssertionError with its error output where a frame broke a rule."""
    command = [sys.executable, "-m", "tests.faults.campaign", f"--frames={num_frames}", f"--seed={seed}"]
    done = subprocess.run(
        command, cwd=_PROJECT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr[-10_000:]
    report: dict[str, dict[str, float]] = json.loads(done.stdout)
    return report


def attack(target: Target, num_frames: int, seed: int) -> dict[str, float]:
    """Feed a target; gives how many frames ended how, the slowest one's CPU time and the highest peak of memory."""
    counts: Counter[str] = Counter()
    slowest_s, peak_bytes = 0.0, 0
    for index in range(num_frames):
        frame = hostile_frame(target.corpus, seed, index)
        traced = index % _TRACED_SHARE == 0
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        if traced:
            tracemalloc.start()
        started = time.process_time()
        try:
            target.feed(frame)
            counts["accepted"] += 1
        except REFUSALS as error:
            counts[type(error).__name__] += 1
        except BaseException as error:
            error.add_note(f"target {target.name!r}, seed {seed}, index {index}, frame {frame.hex()}")
            raise
        seconds = time.process_time() - started
        if traced:
            peak_bytes = max(peak_bytes, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert peak_bytes <= MAX_TRACED_BYTES, f"{target.name}, index {index}: {peak_bytes} bytes"
        assert seconds <= MAX_FRAME_CPU_S, f"{target.name}, index {index}: {seconds:.1f} s"
        slowest_s = max(slowest_s, seconds)
    faulthandler.cancel_dump_traceback_later()
    return {"frames": num_frames, **counts, "slowest_ms": round(1e3 * slowest_s, 2), "peak_bytes": peak_bytes}


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    targets = all_targets()
    _limit_memory()
    share = -(-options.frames // len(targets))
    print(json.dumps({target.name: attack(target, share, options.seed) for target in targets}))


if __name__ == "__main__":
    main()
