"""Several comparisons at once: runs that they share are run once, and some run side by side."""

import json
import multiprocessing
import multiprocessing.connection
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from splitcom.config import Config
from splitcom.errors import RunError, SplitComError
from splitcom.methods.compare import Planned, go_on, plan, write_comparison
from splitcom.methods.run import check_resumable, completed, is_complete
from splitcom.metrics.record import RunFolder
from splitcom.transports.thread import start


@dataclass(frozen=True)
class Standing:
    """How far a campaign has come: rounds of all runs, finished runs, and the names of those that run."""

    rounds_done: int
    rounds: int
    runs_done: int
    runs: int
    running: tuple[str, ...]


def run_campaign(
    configs: Mapping[str, Config],
    out: str | Path,
    jobs: int,
    on_progress: Callable[[Standing], None] | None = None,
) -> list[Path]:
    """Run the comparisons of `configs` into folders of these names below `out`, `jobs` runs at a time.

    The runs themselves are below `out`/runs, named by what they train wherever its files are: what has been run, by any
    of the comparisons, is not run again, and what was interrupted is continued. Returns the comparisons' folders.
    Raises ConfigError before anything is run; RunError, naming them, after the others have ended, where runs failed.
    """
    out = Path(out)
    plans = {name: plan(config, out / name, cache=out / "runs") for name, config in configs.items()}
    distinct = {run.folder: run for planned in plans.values() for run in planned}
    for folder, run in distinct.items():
        if (folder / "config.toml").exists():
            check_resumable(RunFolder(folder), completed(run.config))
    failed = _run_all(distinct, jobs, on_progress)
    for name, planned in plans.items():
        results = [RunFolder(run.folder).result() for run in planned]
        if None not in results:
            write_comparison(out / name, planned, [result for result in results if result is not None])
    if failed:
        raise RunError("\n".join(f"{folder}: {why}" for folder, why in failed.items()))
    return [out / name for name in plans]


def _run_all(
    runs: Mapping[Path, Planned], jobs: int, on_progress: Callable[[Standing], None] | None
) -> dict[Path, str]:
    """Run what is missing; returns why some failed."""
    missing = [run for folder, run in runs.items() if not is_complete(RunFolder(folder), run.config)]
    failed: dict[Path, str] = {}
    with _pool(jobs) as pool:
        futures: dict[Future[str | None], Planned] = {pool.submit(_run_one, run): run for run in missing}
        while futures:
            done, _ = wait(futures, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                run = futures.pop(future)
                if (why := _outcome(future, jobs)) is not None:
                    failed[run.folder] = why
            if on_progress is not None:
                running = tuple(run.variant.name for future, run in futures.items() if future.running())
                rounds = sum(run.config.training.rounds for run in runs.values())
                rounds_done = sum(map(_rounds_done, runs.values()))
                on_progress(
                    Standing(rounds_done, rounds, len(runs) - len(futures), len(runs), running[:jobs])
                )
    return failed


def _outcome(future: "Future[str | None]", jobs: int) -> str | None:
    try:
        return future.result()
    except BrokenProcessPool as error:
        fewer = ", perhaps with fewer --jobs" if jobs > 1 else ""
        raise RunError(
            "a process of the campaign was killed, as systems do that are short of memory; what has been run is whole, "
            f"and the same command goes on{fewer}"
        ) from error


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once where the campaign is interrupted; their runs go on from their last round."""
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _begin() -> None:
    """Use one core, and end with the campaign even where that is killed: another may be at the same folders by then."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_it() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    start("parent", end_with_it, lambda error: os._exit(1))


def _run_one(run: Planned) -> str | None:
    """Run in another process; an error comes back as text, since not all can be pickled and the others go on."""
    try:
        go_on(run)
    except SplitComError as error:
        return f"{run.variant.name}: {error}"
    except Exception:  # a bug: the others may still end
        return f"{run.variant.name}: {traceback.format_exc()}"
    return None


def _rounds_done(run: Planned) -> int:
    if (run.folder / "result.json").exists():
        return run.config.training.rounds
    try:
        lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["round"])
    except (OSError, ValueError, IndexError):  # not begun, or in the middle of a write
        return 0
