"""A progress bar for one run: steps, loss, skip ratio, bytes, time left."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from splitcom.config import Config
from splitcom.methods.compare import compare
from splitcom.report import write_report
from splitcom.report.format import format_bytes, format_thresholds
from splitcom.server.observe import Observer, StepReport


class ProgressBar(Observer):
    """Shows where a run stands; use as a context manager. `label` opens the line."""

    def __init__(self, label: str, rounds: int, console: Console, *, show_data: bool = True) -> None:
        self._rounds = rounds
        self._console = console
        self._show_data = show_data
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._label = label
        self._task = self._progress.add_task(label, total=float(rounds), status="loading")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def on_data(self, encoding: str, partition: str) -> None:
        """Print what was loaded and who got what."""
        if self._show_data:
            self._console.print(f"data: {encoding}\n{partition}\n", highlight=False)

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
        """Show the held-out loss, and the accuracy of classes, until the next step."""
        if lines and lines[0]["eval_loss"] is not None:
            accuracy = lines[0].get("eval_accuracy")
            right = "" if accuracy is None else f"  accuracy {accuracy:.1%}"
            self._progress.update(
                self._task,
                completed=float(lines[0]["round"]),
                status=f"round {lines[0]['round']}/{self._rounds}  held-out loss {lines[0]['eval_loss']:.3f}{right}",
            )


def run_comparison(
    config: Config, out: Path, methods: Sequence[str], seeds: Sequence[int], console: Console
) -> dict[str, Any]:
    """Run a comparison with a progress bar and a report for each of its runs; returns comparison.json's content."""
    with ExitStack() as bars:
        shown_data = False

        def observers_of(name: str, seed: int) -> list[Observer]:
            nonlocal shown_data
            bars.pop_all().close()
            bar = bars.enter_context(
                ProgressBar(f"{name}, seed {seed}", config.training.rounds, console, show_data=not shown_data)
            )
            shown_data = True
            return [bar]

        comparison = compare(config, out, methods=methods, seeds=seeds, observers_of=observers_of)
    for run in comparison["runs"]:
        write_report(out / run["folder"])
    return comparison
