"""The run folder: what is in it, and how each file is written so that none is ever left half done.

config.toml      complete and re-runnable
metrics.jsonl    a line for each client and round; round 0 is before training
result.json      the outcome; there only when the run has ended
adapter/         a standard PEFT adapter for the whole model
controller/      what controllers have learned, for --controller-from
checkpoint/      the state after the last round
given/           a model and rows that `train` in Python was given as objects
report.html
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from splitcom import lock
from splitcom.checksums import fault_in
from splitcom.durable import is_partial, make_folder, remedy, sync, write_atomic
from splitcom.errors import RunError

GIVEN = "given"


class RunFolder:
    """One run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._last_round: int | None = None  # in metrics.jsonl, as far as this object knows

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoint"

    @property
    def front(self) -> Path:
        """Where the front is that clients are sent, while a server runs."""
        return self.checkpoints / "front"

    @property
    def adapter(self) -> Path:
        """Where the adapter is written at the end."""
        return self.path / "adapter"

    @property
    def given(self) -> Path:
        """Where a model and rows are that were objects of the program that trains."""
        return self.path / GIVEN

    @property
    def controllers(self) -> Path:
        """Where controllers that learn are written at the end."""
        return self.path / "controller"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes from training into this folder; raises RunError if one does."""
        refusal = "wait until it has ended, or choose another folder with --out"
        try:
            with ExitStack() as stack:
                with self._explained():
                    stack.enter_context(lock.locked(self.path / lock.NAME, refusal))
                yield
        finally:
            with suppress(OSError):
                self.path.rmdir()  # where nothing has come of the run

    @property
    def is_locked(self) -> bool:
        """Whether a process trains into this folder, as far as can be told."""
        with self._explained():
            return lock.is_held(self.path / lock.NAME)

    def refuse_if_used(self) -> None:
        """Raise RunError if the folder holds anything already."""
        with self._explained():
            if self.path.exists() and not (
                self.path.is_dir() and all(map(_says_nothing, self.path.iterdir()))
            ):
                way = "continue it with --resume, or " if (self.path / "config.toml").exists() else ""
                what = "this run folder exists" if way else "exists, and is no run"
                raise RunError(f"{self.path}: {what}; {way}choose another with --out")

    def begin(self, config_toml: str) -> None:
        """Start a run with this configuration, or go on with one; raises RunError if it cannot be written."""
        with self._explained():
            make_folder(self.path)
            self._write("config.toml", config_toml)

    def config_toml(self) -> str:
        """The configuration the run was started with."""
        try:
            return (self.path / "config.toml").read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{self.path}: no run to be found here; {self._remedy()}") from None
        except OSError as error:
            raise RunError(f"{self.path}: the run cannot be read: {error.strerror or error}") from error

    def _remedy(self) -> str:
        """What to name in place of a folder that holds no run."""
        if self.path.is_dir() and (runs := sorted(self.path.glob("*/config.toml"))):
            return f"there are runs in it: name one, such as {runs[0].parent}"
        return "name the folder that a run was given as --out"

    def append_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add the lines of a round to metrics.jsonl; if it has been written before, they take the place of those."""
        if not lines:
            return
        first, last = (pick(int(line["round"]) for line in lines) for pick in (min, max))
        if self._last_round is None or first <= self._last_round:
            self._truncate_metrics(first - 1)
        with self._explained():
            path = self.path / "metrics.jsonl"
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
            sync(path)
        self._last_round = last

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json."""
        self._write("result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")

    def forget_result(self) -> None:
        """Have the run not be over: it goes back, and will end with another one."""
        with self._explained():
            (self.path / "result.json").unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """The outcome of a finished run; None if it has not ended. Raises RunError if it cannot be read."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            int(result["rounds"])
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}: damaged ({error}); remove it, and `splitcom train --resume` makes it anew from the checkpoint"
            ) from error
        return result

    @property
    def has_adapter(self) -> bool:
        """Whether the adapter is there, as it was written."""
        return self.adapter.exists() and fault_in(self.adapter) is None

    def ended_adapter(self) -> Path:
        """The adapter of a finished run; RunError if the run has not ended, or could not write its adapter."""
        if self.result() is None:
            raise RunError(f"{self.path}: the run has not ended; continue it with `splitcom train --resume`")
        if not self.has_adapter:
            fault = fault_in(self.adapter)
            why = "could not be written" if fault is None else f"is damaged ({fault})"
            raise RunError(
                f"{self.path}: the run has ended, but its adapter {why}; `splitcom train --resume` writes it from the "
                "checkpoint"
            )
        return self.adapter

    def guard(self, write: Callable[[], None]) -> None:
        """Run something that writes into this folder; raises RunError naming the folder if it cannot."""
        with self._explained():
            write()

    def _truncate_metrics(self, last_round: int) -> None:
        """Drop the lines of later rounds, which are written again, and what a power failure has left half written."""
        with self._explained(), (self.path / "metrics.jsonl").open("a+b") as file:
            end = file.seek(0)
            for line in file:
                if not 0 <= _round_of(line) <= last_round:
                    break
                end += len(line)
            file.truncate(end)

    def _write(self, name: str, text: str) -> None:
        write_atomic(self.path / name, text.encode())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot write the run folder: {remedy(self.path, error)}, or "
                "choose another folder with --out; what was written before is whole, and --resume continues "
                "from it"
            ) from error


def _says_nothing(path: Path) -> bool:
    """Whether a file is there for a moment only, or left by a process that was killed."""
    return path.name in (lock.NAME, GIVEN) or is_partial(path)


def _round_of(line: bytes) -> int:
    """The round of a line of metrics.jsonl; -1 if it is not whole."""
    try:
        return int(json.loads(line)["round"]) if line.endswith(b"\n") else -1
    except (ValueError, TypeError, KeyError):
        return -1
