"""The run folder: what is in it, and how each file is written so that none is ever left half done.

config.toml      complete and re-runnable
metrics.jsonl    a line for each client and round; round 0 is before training
result.json      the outcome; there only when the run has ended
adapter/         a standard PEFT adapter for the whole model
controller/      what controllers have learned, for --controller-from
checkpoint/      the state after the last round
report.html
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from splitcom.errors import RunError

_PARTIAL = ".partial"


class RunFolder:
    """One run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoint"

    @property
    def adapter(self) -> Path:
        """Where the adapter is written at the end."""
        return self.path / "adapter"

    @property
    def controllers(self) -> Path:
        """Where controllers that learn are written at the end."""
        return self.path / "controller"

    def refuse_if_used(self) -> None:
        """Raise RunError where the folder holds anything already."""
        with self._explained():
            if self.path.exists() and not (self.path.is_dir() and all(map(_is_partial, self.path.iterdir()))):
                raise RunError(
                    f"{self.path}: this run folder exists; continue it with --resume, or choose another with --out"
                )

    def create(self, config_toml: str) -> None:
        """Start a new run; raises RunError where the folder is used or cannot be written."""
        self.refuse_if_used()
        with self._explained():
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("config.toml", config_toml)

    def config_toml(self) -> str:
        """The configuration the run was started with."""
        try:
            return (self.path / "config.toml").read_text(encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.path}: no run to be found here: {error}") from error

    def append_metrics(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to metrics.jsonl."""
        with self._explained(), (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def truncate_metrics(self, last_round: int) -> None:
        """Drop the lines of rounds after `last_round`, which a resumed run will write again."""
        with self._explained():
            path = self.path / "metrics.jsonl"
            kept = []
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
                try:
                    if json.loads(line)["round"] <= last_round:
                        kept.append(line)
                except ValueError:  # the last line of a run that was killed while writing it
                    continue
            self._write("metrics.jsonl", "".join(line + "\n" for line in kept))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json."""
        self._write("result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")

    def result(self) -> dict[str, Any] | None:
        """The outcome of a finished run; None where it has not ended."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read: {error}") from error
        return result

    def guard(self, write: Callable[[], None]) -> None:
        """Run something that writes into this folder; raises RunError naming the folder where it cannot."""
        with self._explained():
            write()

    def _write(self, name: str, text: str) -> None:
        write_atomic(self.path / name, text.encode())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot write the run folder: {error.strerror or error}; free some space or choose "
                "another folder with --out; what was written before is whole, and --resume continues from it"
            ) from error


def _is_partial(path: Path) -> bool:
    """Whether a process that was killed while it wrote has left it; it may have been the first file of a run."""
    return path.name.startswith(".") and path.suffix == _PARTIAL


def write_atomic(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all; raises RunError where the folder cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()  # there only where the write failed or was interrupted
    return path
