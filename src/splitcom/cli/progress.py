"""A progress bar for one run: steps, loss, skip ratio, bytes, time left; a line for each round if stdout is a pipe."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from splitcom.config import Config
from splitcom.methods.compare import compare
from splitcom.report import write_report
from splitcom.report.format import format_bytes, format_thresholds
from splitcom.report.terminal import Progress, Terminal, progress
from splitcom.server.observe import Observer, StepReport


class ProgressBar(Observer):
    """Shows where a run stands; use as a context manager. `label` opens the line."""

    def __init__(self, label: str, rounds: int, terminal: Terminal, *, show_data: bool = True) -> None:
        self._label = label
        self._rounds = rounds
        self._terminal = terminal
        self._show_data = show_data
        self._progress = progress(terminal)
        self._task = self._progress.add_task(label, total=float(rounds), status="loading")

    def __enter__(self) -> Self:
        if self._terminal.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._terminal.is_terminal:
            self._progress.stop()

    def on_rows(self, what: str, done: int, total: int) -> None:
        """Show how many rows are read or encoded."""
        self._progress.update(self._task, status=_rows(what, done, total))

    def on_data(self, encoding: str, partition: str) -> None:
        """Print what was loaded and who got what."""
        if self._show_data:
            self._terminal.say(f"data: {encoding}\n{partition}\n")

    def on_step(self, report: StepReport) -> None:
        """Move the bar."""
        loss = "" if report.loss is None else f"  loss {report.loss:.3f}"
        skipped = f"  skipped {report.skip_ratio:4.0%}" if report.skip_ratio else ""
        thresholds = format_thresholds(report.thresholds)
        self._progress.update(
            self._task,
            completed=report.round - 1 + report.step / report.num_steps,
            status=f"round {report.round}/{self._rounds}{loss}{skipped}{thresholds}  "
            f"{format_bytes(report.total_bytes)}",
        )

    def on_text(self, done: int, total: int) -> None:
        """Show how many texts are written."""
        self._progress.update(self._task, status=f"writing text to score: {done}/{total}")

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Show the held-out loss, and the accuracy of classes, until the next step; without a terminal, a line."""
        if not lines:
            return
        round_index = lines[0]["round"]
        held_out = _held_out(lines[0])
        if not self._terminal.is_terminal:
            losses = [line["loss"] for line in lines if line.get("loss") is not None]
            trained = f"  loss {fmean(losses):.3f}" if losses else ""
            self._terminal.say(
                f"{self._label}: round {round_index} of {self._rounds}{trained}{held_out}  "
                f"{format_bytes(sum(line['bytes']['total'] for line in lines))} in this round"
            )
        elif held_out:
            self._progress.update(
                self._task,
                completed=float(round_index),
                status=f"round {round_index}/{self._rounds}{held_out}",
            )


class RowsBar:
    """Shows on a terminal how many rows are read or encoded, until all are; use as a context manager."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._bar: Progress | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        """Hear of it, as an observer does."""
        if done == total or not self._terminal.is_terminal:
            self.__exit__()
            return
        if self._bar is None:
            self._bar = progress(self._terminal)
            self._bar.add_task("data", total=None, status="")
            self._bar.start()
        (task,) = self._bar.task_ids
        self._bar.update(task, completed=done, total=total or None, status=_rows(what, done, total))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


def _rows(what: str, done: int, total: int) -> str:
    return f"{what}: {done:,}" + (f" of {total:,}" if total else "")


def _held_out(line: Mapping[str, Any]) -> str:
    if line["eval_loss"] is None:
        return ""
    accuracy = line.get("eval_accuracy")
    return f"  held-out loss {line['eval_loss']:.3f}" + (
        "" if accuracy is None else f"  accuracy {accuracy:.1%}"
    )


def run_comparison(
    config: Config, out: Path, methods: Sequence[str], seeds: Sequence[int], terminal: Terminal
) -> dict[str, Any]:
    """Run a comparison with a progress bar and a report for each of its runs; returns comparison.json's content."""
    with ExitStack() as bars:
        shown_data = False

        def observers_of(name: str, seed: int) -> list[Observer]:
            nonlocal shown_data
            bars.pop_all().close()
            bar = bars.enter_context(
                ProgressBar(
                    f"{name}, seed {seed}", config.training.rounds, terminal, show_data=not shown_data
                )
            )
            shown_data = True
            return [bar]

        comparison = compare(config, out, methods=methods, seeds=seeds, observers_of=observers_of)
    for run in comparison["runs"]:
        write_report(out / run["folder"])
    return comparison
