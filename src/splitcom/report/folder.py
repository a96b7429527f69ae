"""Reads run and comparison folders and checks them; knows nothing of how they are shown."""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from splitcom.errors import RunError
from splitcom.flows import FLOWS, SUMS

RESULT, METRICS, CONFIG, COMPARISON, REPORT = (
    "result.json",
    "metrics.jsonl",
    "config.toml",
    "comparison.json",
    "report.html",
)


def _with_totals(traffic: dict[str, int]) -> dict[str, int]:
    missing = [key for key in SUMS if key not in traffic]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    return traffic


def _of_all_flows(traffic: dict[str, int]) -> dict[str, int]:
    flows = sum(traffic.get(flow, 0) for flow in FLOWS)
    if 0 < traffic.get("evaluation", 0) == flows - traffic["total"]:
        raise ValueError("totals without evaluation, as earlier versions counted")
    return traffic


Totals = Annotated[dict[str, int], AfterValidator(_with_totals), AfterValidator(_of_all_flows)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Evaluation(_Record):
    """Held-out quality: losses of the adapter that is left, at best and before training; for classes its accuracy.

    If the first of them is `exact`, it is right to about a tenth of a per cent, or to the last bit if nothing is
    coded. The others may be of coded hidden states.
    """

    loss: float
    perplexity: float
    best_loss: float
    initial_loss: float
    fell_by: float | None = None  # None also if the losses are over different rows
    round: int | None = None  # after which the adapter was what is left; 0: before training
    rows: int | None = None  # held-out samples that the last loss is over
    exact: bool = False
    accuracy: float | None = None

    @property
    def has_changed_rows(self) -> bool:
        """Whether the loss before training is over other rows than the last one: the two cannot be compared."""
        return self.rows is not None and self.fell_by is None

    @property
    def unit(self) -> str:
        """Of the losses."""
        return "nats/token" if self.accuracy is None else "nats/sample"


class Seconds(_Record):
    """Time of a run: measured here, and on the virtual clock of the link model."""

    wall: float
    virtual: float


class Sample(_Record):
    """A generation before and after training, beside what the data says."""

    prompt: str
    reference: str
    before: str
    after: str


class Text(_Record):
    """Scores of generated text; those that were not computed are None."""

    prompts: int
    bleu: float | None = None
    nist: float | None = None
    meteor: float | None = None
    rouge_l: float | None = None
    chrf: float | None = None


class Confusion(_Record):
    """How often each class was told (the columns) for samples of each class (the rows), in the order of `labels`."""

    labels: list[str]
    counts: list[list[int]]


class Result(_Record):
    """`result.json`: the outcome of one run; sizes in bytes, savings as fractions."""

    method: str
    label: str
    group: str = ""
    model: str
    seed: int
    rounds: int  # that were trained
    ended_by: dict[str, int] = {}  # the setting of training that has ended the run, and its value
    clients: int  # that were there at the end
    participation: dict[str, str] = {}  # the rounds that each client has ended, such as "1-4, 6"
    eval: Evaluation
    bytes: Totals
    uncompressed_bytes: Totals
    saving: Annotated[dict[str, float], AfterValidator(_with_totals)]
    seconds: Seconds
    environment: dict[str, object] = {}
    samples: list[Sample] = []
    text: Text | None = None
    confusion: Confusion | None = None

    @property
    def ending(self) -> str:
        """Which adapter is left and why the run has ended, where that is not the last and after all its rounds."""
        found = []
        if self.eval.round is not None and self.eval.round != self.rounds:
            found.append(f"the adapter is that of round {self.eval.round}, the best of {self.rounds}")
        if (patience := self.ended_by.get("patience")) is not None:
            found.append(
                f"ended after round {self.rounds}: no lower loss in training.patience = {patience} evaluations"
            )
        return "; ".join(found)

    @property
    def model_name(self) -> str:
        """The model's name on the hub or of its folder, without the way to that folder."""
        local = self.model.startswith((".", "/", "~")) or Path(self.model).is_absolute()
        return Path(self.model).name if local else self.model


class ClientRound(_Record):
    """One line of `metrics.jsonl`: a client in a round (0: before training); some values are per flow."""

    round: int
    client: int | str
    loss: float | None = None
    eval_loss: float | None = None
    eval_accuracy: float | None = None
    eval_rows: int | None = None  # held-out samples that eval_loss is over
    threshold: dict[str, float | None] = {}
    skip_ratio: dict[str, float | None] = {}
    unlike: list[str] = []  # in what the client was far from the others
    steps: int = 0
    held_out_batches: int = 0
    bytes: dict[str, int] = {}
    uncompressed_bytes: dict[str, int] = {}


@dataclass(frozen=True)
class Run:
    """A finished run; `metrics` is empty where only the results of a comparison were kept."""

    folder: Path
    result: Result
    metrics: list[ClientRound]
    config: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The tree of its configuration, as it was written."""
        return tomllib.loads(self.config)

    @property
    def has_links(self) -> bool:
        """Whether its time is that of modelled links."""
        links = self.settings.get("links", {})
        return any(value for value in links.values() if not isinstance(value, dict)) or bool(
            links.get("clients")
        )

    def knob(self, flow: str) -> str | None:
        """What there is to set of a flow's codec: "threshold", "step", or None."""
        from splitcom.codecs import parse  # brings torch along

        text = self.settings.get("flows", {}).get(flow, {}).get("codec")
        knob = parse(text).knob if text else None
        return None if knob is None else knob.name


@dataclass(frozen=True)
class Comparison:
    """Finished runs that are to be compared."""

    folder: Path
    runs: list[Run]


class _ComparedRun(_Record):
    folder: str
    result: Result


class _ComparisonFile(_Record):
    runs: list[_ComparedRun]


RecordT = TypeVar("RecordT", bound=BaseModel)


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read a finished run; raises RunError naming the file and the field that is missing or wrong."""
    folder = Path(folder)
    text = _read(folder / RESULT, "only a finished run has one; resume it")
    result = _validate(Result, text, folder / RESULT)
    return Run(folder, result, load_metrics(folder), _read(folder / CONFIG, "copy it back into the folder"))


def load_run_so_far(folder: str | os.PathLike[str]) -> Run | None:
    """Read a run that may still be running: a result as it would be now; None before it has been evaluated once.

    Raises RunError as `load_run` does.
    """
    folder = Path(folder)
    if (folder / RESULT).exists():
        return load_run(folder)
    metrics = load_metrics(folder, may_go_on=True) if (folder / METRICS).exists() else []
    evaluated = {line.round: line for line in metrics if line.eval_loss is not None}
    if not evaluated:
        return None
    losses = [line.eval_loss for line in evaluated.values() if line.eval_loss is not None]
    last = evaluated[max(evaluated)]
    config = _read(folder / CONFIG, "copy it back into the folder")
    settings = tomllib.loads(config)
    sent, whole = (
        {key: sum(getattr(line, kind).get(key, 0) for line in metrics) for key in (*FLOWS, *SUMS)}
        for kind in ("bytes", "uncompressed_bytes")
    )
    method = settings.get("method", "")
    found = Result(
        method=method,
        label=method,
        model=settings.get("model", {}).get("source", ""),
        seed=settings.get("seed", 0),
        rounds=metrics[-1].round,
        clients=len({line.client for line in metrics if line.round == metrics[-1].round}),
        eval=Evaluation(
            loss=losses[-1],
            perplexity=math.exp(min(losses[-1], 700.0)),
            best_loss=min(losses),
            initial_loss=losses[0],
            rows=last.eval_rows,
            fell_by=losses[0] - losses[-1],
            accuracy=last.eval_accuracy,
        ),
        bytes=sent,
        uncompressed_bytes=whole,
        saving={key: 1 - sent[key] / whole[key] if whole[key] else 0.0 for key in SUMS},
        seconds=Seconds(wall=0.0, virtual=0.0),
    )
    return Run(folder, found, metrics, config)


def load_comparison(folder: str | os.PathLike[str]) -> Comparison:
    """Read a comparison; raises RunError as `load_run` does.

    A run whose folder is no longer there keeps its result and has no metrics.
    """
    folder = Path(folder)
    path = folder / COMPARISON
    compared = _validate(_ComparisonFile, _read(path, "run the comparison first"), path).runs
    if not compared:
        raise RunError(f"{path}: runs is empty, expected at least one run; run the comparison again")
    runs = []
    for one in compared:
        own = folder / one.folder
        runs.append(Run(own, one.result, load_metrics(own) if own.is_dir() else []))
    return Comparison(folder, runs)


def as_result(result: Result | Mapping[str, object]) -> Result:
    """Check a result that was not read from a file."""
    return result if isinstance(result, Result) else _validate(Result, dict(result), "result")


def load_metrics(folder: Path, *, may_go_on: bool = False) -> list[ClientRound]:
    """Read the lines of a run's metrics.jsonl; raises RunError naming the line that is wrong.

    Of a run that may go on, the last one may be half written, and is then left out.
    """
    path = folder / METRICS
    text = _read(path, "the run folder is incomplete; run it again")
    lines = (text[: text.rfind("\n") + 1] if may_go_on else text).splitlines()
    return [_validate(ClientRound, line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _read(path: Path, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path}: no such file; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); {remedy}") from error


def _validate(kind: type[RecordT], data: str | dict[str, object], where: object) -> RecordT:
    try:
        return kind.model_validate_json(data) if isinstance(data, str) else kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "content"
        value = "" if first["type"] == "missing" else f", found {str(first['input'])[:60]!r}"
        raise RunError(
            f"{where}: {field}: {first['msg']}{value}; the file is damaged or of another version; run it "
            "again"
        ) from error
