"""What a run's rounds look like to TensorBoard, MLflow and Weights & Biases: one observer for each of them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Self

from splitcom.config import Config
from splitcom.durable import write_atomic
from splitcom.errors import ConfigError, MissingExtraError
from splitcom.server.observe import Observer
from splitcom.settings.tree import flat
from splitcom.training.loss import perplexity

_RUNS = "trackers.json"  # in a run folder: what services call the run, so that it goes on under the same name
_PROJECT = "splitcom"


def numbers_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a tracker plots of a round, from its lines of metrics.jsonl: losses, bytes by flow, thresholds, skips."""
    first = lines[0]
    found: dict[str, float] = {}
    losses = [line["loss"] for line in lines if line["loss"] is not None]
    if losses:
        found["loss/train"] = fmean(losses)
    if first["eval_loss"] is not None:
        found["loss/held_out"] = first["eval_loss"]
        if first.get("eval_accuracy") is None:
            found["perplexity/held_out"] = perplexity(first["eval_loss"])
        else:
            found["accuracy/held_out"] = first["eval_accuracy"]
    for flow in first["bytes"]:
        found[f"bytes/{flow}"] = float(sum(line["bytes"][flow] for line in lines))
    found |= {f"threshold/{flow}": value for flow, value in first["threshold"].items() if value is not None}
    for flow in first["skip_ratio"]:
        found[f"skip/{flow}"] = fmean(line["skip_ratio"].get(flow, 0.0) for line in lines)
    return found


class Tracker(Observer, ABC):
    """Tells a service of each round; a context manager, which says that the run is over.

    Raises MissingExtraError if the package of the service is not installed. `settings` is the run's tree of settings.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def on_round(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Hand its numbers on."""
        if lines:
            self.log(lines[0]["round"], numbers_of(lines))

    @abstractmethod
    def log(self, round_index: int, numbers: Mapping[str, float]) -> None:
        """Keep the numbers of a round."""

    @abstractmethod
    def close(self) -> None:
        """The run is over, or interrupted."""

    def _known_run(self) -> str | None:
        """What the service has called this run before it was interrupted."""
        return self._known_runs().get(self.name)

    def _keep_run(self, run: str) -> None:
        write_atomic(self._folder / _RUNS, json.dumps(self._known_runs() | {self.name: run}).encode())

    def _known_runs(self) -> dict[str, str]:
        path = self._folder / _RUNS
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


class TensorBoard(Tracker):
    """Writes event files into the run folder: `tensorboard --logdir runs`."""

    name = "tensorboard"

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("--track tensorboard", "track", error) from error
        self._writer_of = SummaryWriter
        self._writer: Any = None

    def log(self, round_index: int, numbers: Mapping[str, float]) -> None:
        """Begin with the first round, when there is a run folder; what an interrupted run wrote after it is hidden."""
        if self._writer is None:
            place = self._folder / "tensorboard"
            self._writer = self._writer_of(str(place), purge_step=round_index)
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, round_index)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()


class MLflow(Tracker):
    """Logs to the server that MLFLOW_TRACKING_URI names; a database here needs the whole package `mlflow`."""

    name = "mlflow"

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings)
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError("--track mlflow", "track", error) from error
        self._mlflow = mlflow
        self._begun = False

    def log(self, round_index: int, numbers: Mapping[str, float]) -> None:
        """Begin the run, or go on with it, at its first round."""
        if not self._begun:
            self._mlflow.set_experiment(_PROJECT)
            known = self._known_run()
            run = self._mlflow.start_run(run_id=known, run_name=self._folder.name)
            self._begun = True
            if known is None:
                self._mlflow.log_params(flat(self._settings))
                self._keep_run(run.info.run_id)
        self._mlflow.log_metrics(dict(numbers), step=round_index)

    def close(self) -> None:
        """End the run."""
        if self._begun:
            self._mlflow.end_run()


class WandB(Tracker):
    """Logs to Weights & Biases, as its own environment variables say; with WANDB_MODE=offline into `wandb` here."""

    name = "wandb"

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings)
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("--track wandb", "track", error) from error
        self._wandb = wandb
        self._run: Any = None

    def log(self, round_index: int, numbers: Mapping[str, float]) -> None:
        """Begin the run, or go on with it, at its first round."""
        if self._run is None:
            self._run = self._wandb.init(
                project=_PROJECT,
                name=self._folder.name,
                id=self._known_run(),
                resume="allow",
                config=dict(self._settings),
            )
            self._keep_run(self._run.id)
        self._run.log(dict(numbers), step=round_index)

    def close(self) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()


TRACKERS = {tracker.name: tracker for tracker in (TensorBoard, MLflow, WandB)}


def trackers(names: Sequence[str], folder: Path, config: Config) -> list[Tracker]:
    """One of each name; raises ConfigError for one that there is not."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--track {name}: no such tracker; there are {', '.join(TRACKERS)}")
    return [TRACKERS[name](folder, config.model_dump()) for name in dict.fromkeys(names)]
