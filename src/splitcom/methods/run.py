"""One run from configuration to run folder: build the parties, train, record after each round, export."""

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitcom.config import Config
from splitcom.data import Sample
from splitcom.engines import ENGINES, check_engine
from splitcom.errors import ConfigError, RunError
from splitcom.flows import SUMS
from splitcom.methods import METHODS
from splitcom.methods.ending import Ending, Trained, export, texts_of, write_texts
from splitcom.methods.findings import comparable, effective, findings
from splitcom.methods.given import Given, Rows
from splitcom.methods.method import check_clients
from splitcom.methods.privacy import check_privacy, privacy_of, privacy_warnings
from splitcom.methods.record import Record
from splitcom.methods.rollback import DEFENCES, check_from_round, go_back
from splitcom.methods.settings import PLACES, begin, check_model
from splitcom.methods.text import Writer
from splitcom.metrics.record import RunFolder
from splitcom.models import fingerprint, load_joined_state
from splitcom.parties.check import check_parts
from splitcom.parties.known_rows import check_rows, keep_rows
from splitcom.parties.parts import Parts, begin_from_adapter, load_parts, with_adapter
from splitcom.parties.rows import ALL_ROWS, Look, with_classes
from splitcom.parties.texts import Texts, load_texts, with_chat
from splitcom.plugins import load_plugins
from splitcom.server.observe import Observer, Observers
from splitcom.server.rounds import Federation
from splitcom.settings.tree import flat
from splitcom.simulation.simulation import Simulation
from splitcom.training.loss import perplexity
from splitcom.training.store import PartyStore

_LOG = logging.getLogger(__name__)
if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AFTER_TRAINING = (
    "evaluation.generate",
    "evaluation.text_samples",
    "evaluation.beams",
    "evaluation.max_new_tokens",
    "comparison.",
    "references.keep",
    "training.keep_checkpoints",
    "control.start_from",
)
"""Settings that training does not depend on, or no longer: they may be changed when a run is resumed."""

ROUNDING = (
    "engine.max_tokens_per_pass",
    "engine.kind",
    "engine.devices",
    "engine.ray",
    "engine.processes",
    "evaluation.batch_size",
)
"""Settings of memory and place that results do not depend on but for rounding: they may be changed on resume.

Where all of a step fits into one pass, before and now, the bits are the same.
"""

LIVENESS = (
    "federation.names",
    "federation.drop_after_s",
    "federation.step_timeout_s",
    "federation.max_restarts",
    "federation.min_clients",
    "training.patience",
)
"""Settings of who or what is waited for: they may be changed too, since what is waited for shows while a run lasts."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and its result as result.json has it (losses in nats, sizes in bytes)."""

    folder: Path
    result: dict[str, Any]

    @property
    def adapter(self) -> Path:
        """The folder of the adapter for the whole model; `PeftModel.from_pretrained` loads it."""
        return self.folder / "adapter"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row for each client and round, by dotted key, such as `bytes.total`: `pandas.DataFrame(run.metrics)`."""
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [flat(json.loads(line)) for line in lines]

    def plot(self, what: str = "loss") -> "Figure":
        """Draw one of the report's plots: `run.plot("bytes").savefig("bytes.png")`.

        "loss": held-out loss against bytes. "bytes": bytes of each flow and round. "training": training losses of the
        clients. "codecs": thresholds, steps and skipped samples. "accuracy": accuracy of a classifier.
        Raises RunError for any other name, and for a plot that this run has no data for.
        """
        from splitcom.report import load_run
        from splitcom.report.plots import plot

        return plot(load_run(self.folder), what)


def configured(config: Config) -> Config:
    """The configuration with what its method prescribes; raises ConfigError for an unknown method or engine."""
    if config.method not in METHODS:
        load_plugins()
    if config.method not in METHODS:
        raise ConfigError(f"method = {config.method!r}: no such method; there are {', '.join(METHODS)}")
    config = METHODS[config.method].configure(config)
    check_engine(config)
    check_privacy(config)
    check_clients(config)
    return config


def completed(config: Config, look: Look = ALL_ROWS) -> Config:
    """The configuration with what its method prescribes, and its rows and the adapter it begins from tell."""
    return with_adapter(with_chat(with_classes(configured(config), look)))


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    from_round: int | None = None,
    label: str | None = None,
    observers: Sequence[Observer] = (),
    model: "PreTrainedModel | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    data: Rows | None = None,
    held_out: Rows | None = None,
) -> Run:
    """Train with all parties in this process, and write the run folder `out`.

    Args:
        config: the settings.
        out: the folder, which is made. It may exist only with `resume`.
        resume: continue a run that was interrupted, after its last completed round, to the same bits. A run that has
            ended gives its result again.
        from_round: with `resume`, continue after this round instead, if it is kept (`training.keep_checkpoints`).
            Settings that bound updates may then be changed.
        label: what reports call the run; the method's name if not given.
        observers: hear of what goes on (`splitcom.server.observe`).
        model, tokenizer: objects of transformers, in place of `model.source`.
        data, held_out: rows in place of `data.source` and `data.held_out`: mappings of columns, such as the rows of a
            `datasets.Dataset`. Such objects are kept in the run folder, so that the run can be resumed, evaluated and
            exported without them.

    Raises RunError if the folder exists and `resume` is false, or if it has another configuration; and ConfigError,
    ModelError, DataError or AdapterError for what the configuration names.
    """
    folder = RunFolder(out)
    with folder.locked():
        check_from_round(folder, from_round, resume=resume)
        if not resume:
            folder.refuse_if_used()
        given = Given(model, tokenizer, data, held_out).keep(folder, resume=resume)
        look = Look(Observers(observers).on_rows)
        config = completed(config.override(given) if given else config, look)
        return _train_into(folder, config, resume, from_round, label, observers)


def _train_into(
    folder: RunFolder,
    config: Config,
    resume: bool,
    from_round: int | None,
    label: str | None,
    observers: Sequence[Observer],
) -> Run:
    observer = Observers([Record(folder), *observers])
    if resume:
        started = check_resumable(folder, config, also=() if from_round is None else DEFENCES)
        result = ended_with(folder, config) if from_round is None else None
        if result is not None:
            if started != config or texts_of(config) - result.keys():
                result = _write_again(folder, config, result, observer)
            return Run(folder.path, result)
    goes_on = PartyStore(folder.checkpoints / "server").latest() is not None
    warnings = check_parts(config)
    texts = _same_texts(folder, config, observer, goes_on=goes_on)
    observer.on_data(texts.report, str(texts.partition))
    parts = load_parts(config, for_engine=True)
    begin_from_adapter(parts, config)
    trained = _train(config, label or config.method, folder, from_round, texts, parts, observer)
    trained.result["warnings"][:0] = [*warnings, *texts.train.report.warnings]
    ended = folder.result() if resume else None  # with what was sent when it ended, which no checkpoint has
    same = ended is not None and ended["rounds"] == trained.result["rounds"]
    ending = Ending(folder, ended if ended is not None and same else trained.result)
    ending.keep()
    ending.attempt("adapter", lambda: export(trained, parts, folder, config))

    def writer() -> Writer:
        # the body lies where only the engine can run it, or is not what a single front leaves
        if ENGINES[config.engine.kind].begins_on_cpu or len(config.cuts) > 1:
            return Writer.of_run(config, folder.adapter)
        load_joined_state(parts.all, trained.adapter)
        return Writer(parts, config)

    write_texts(ending, config, writer, lambda: texts.held_out.samples, observer)
    return Run(folder.path, ending.result)


def _train(
    config: Config,
    label: str,
    folder: RunFolder,
    from_round: int | None,
    texts: Texts,
    parts: Parts,
    observer: Observer,
) -> Trained:
    """Run the rounds that are left; all that only training needs is gone when this returns."""
    simulation = Simulation(config, texts, parts, folder.checkpoints, observer)
    with closing(simulation):
        if from_round is not None:
            go_back(folder, from_round)
        begin(folder, config, simulation.fingerprint)
        keep_rows(folder.checkpoints, _groups_of(config, texts))
        found = run_rounds(simulation.federation, observer)
    return trained_of(simulation.federation, config, label, simulation.clock.server_time_s, found)


def _write_again(
    folder: RunFolder, config: Config, result: Mapping[str, Any], observer: Observer
) -> dict[str, Any]:
    """Write the text of a run that has its adapter, and keep the configuration that asks for it."""
    held_out = _same_texts(folder, config, observer, goes_on=True).held_out.samples
    folder.begin(config.to_toml())
    ending = Ending(folder, result)
    write_texts(ending, config, lambda: Writer.of_run(config, folder.adapter), lambda: held_out, observer)
    return ending.result


def _same_texts(folder: RunFolder, config: Config, observer: Observer, *, goes_on: bool) -> Texts:
    """The texts of a run; writes nothing.

    If it goes on, raises RunError for another model than it began with, and DataError for other rows, or rows that
    other clients have.
    """
    check_model(folder, config.model.source, fingerprint(config.model.source))
    texts = load_texts(config, Look(observer.on_rows))
    if goes_on:
        remedy = "start a new run with them: give another folder with --out"
        check_rows(folder.checkpoints, _groups_of(config, texts), remedy)
    return texts


def _groups_of(config: Config, texts: Texts) -> dict[str, Sequence[Sample]]:
    """The rows of each client, and those held out."""
    groups = dict(zip(config.client_names, texts.partition.parts, strict=True))
    return {**groups, "held out": texts.held_out.samples}


def run_rounds(federation: Federation, observer: Observer) -> list[str]:
    """Run what is left of a run, and tell of each round as it ends; returns what there is to be warned of."""
    before = effective(federation.whole_adapter)
    for lines in federation.run():
        observer.on_round(lines)
    losses, rows, kept = federation.eval_losses, federation.eval_rows, federation.kept_round
    found = findings(before, effective(federation.whole_adapter), losses, federation.config, rows, kept)
    return [*federation.warnings, *found]


def ended_with(folder: RunFolder, config: Config) -> dict[str, Any] | None:
    """The result of a run that has trained as long as it is to, and has its adapter; else None."""
    result = folder.result()
    if result is None or not folder.has_adapter:
        return None
    ((setting, value),) = result.get("ended_by", {"rounds": result["rounds"]}).items()
    now = getattr(config.training, setting)
    goes_on = now > value or (setting == "patience" and not now)
    if not goes_on and result["rounds"] < config.training.rounds:
        _LOG.info(
            "%s: training.%s = %d has ended this run; raise that to have it go on",
            folder.path,
            setting,
            value,
        )
    return None if goes_on else result


def is_complete(folder: RunFolder, config: Config) -> bool:
    """Whether a run has ended, and nothing that comes after training has failed or is missing."""
    result = ended_with(folder, config)
    return result is not None and texts_of(config) <= result.keys()


def check_resumable(folder: RunFolder, config: Config, also: Sequence[str] = ()) -> Config:
    """The configuration a run folder was started with; RunError, naming what differs, if it trained otherwise.

    What comes after training may be another, who is waited for, and what begins with `also`; rounds may be more. So may
    links, if nothing depends on time, and places, as what is there is compared.
    """
    started = Config.from_toml(folder.config_toml(), where=str(folder.path / "config.toml"))
    was, now = flat(started.model_dump()), flat(config.model_dump())
    waits = started.federation.waits_for_all
    free = (*AFTER_TRAINING, *ROUNDING, *PLACES, *LIVENESS, *also, *(["links."] if waits else []))
    changed = [
        f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(was | now)
        if was.get(key) != now.get(key) and not key.startswith(free)
        if not (waits and key.startswith("clients.") and "link" in key.split("."))
        if not (key == "training.rounds" and now[key] > was[key])
    ]
    if changed:
        raise RunError(
            f"{folder.path}: cannot resume with another configuration: {'; '.join(changed)}; undo the "
            "change, or start a new run with another --out (training.rounds can be raised, and settings "
            "of what comes after training or of who is waited for can be changed)"
        )
    return started


def trained_of(
    federation: Federation, config: Config, label: str, virtual_s: float, warnings: Sequence[str]
) -> Trained:
    """What a federation has left that has run its rounds."""
    result = {
        **result_of(federation, config, label, virtual_s),
        "warnings": [*privacy_warnings(config), *warnings],
    }
    return Trained(federation.kept_adapter, federation.controllers, result)


def result_of(federation: Federation, config: Config, label: str, virtual_s: float) -> dict[str, Any]:
    """The content of result.json."""
    losses, rows = federation.eval_losses, federation.eval_rows
    exact = federation.exact
    kept = federation.kept_round
    last = losses[kept] if exact is None else exact.loss
    alike = comparable(losses, rows)
    accuracy = {}
    if accuracies := federation.eval_accuracies:
        accuracy = {"accuracy": accuracies[kept] if exact is None else exact.accuracy}
    sent = federation.ledger.totals()
    uncompressed = {key: federation.uncompressed[key] for key in sent}
    return {
        "method": config.method,
        "label": label,
        "model": config.model.source,
        "seed": config.seed,
        "rounds": federation.round,
        "ended_by": federation.ended_by,
        "clients": len(federation.members),
        "participation": federation.participation.texts(),
        "eval": {
            "round": kept,  # of the adapter that is left
            "loss": last,
            "perplexity": perplexity(last),
            "rows": sum((rows[max(losses)] if exact is None else exact.rows).values()),
            # of losses before the last, which went through the evaluation's codec, and the last
            "best_loss": min(*alike.values(), *([last] if exact is None or exact.rows == rows[kept] else [])),
            "initial_loss": losses[0],
            # of two losses through the evaluation's codec: beside an exact one, its errors would count as training
            "fell_by": losses[0] - losses[kept] if 0 in alike else None,
            "exact": exact is not None or not config.codes_evaluation,
            **accuracy,
        },
        "bytes": sent,
        "uncompressed_bytes": uncompressed,
        "repeated_bytes": federation.ledger.repeated_bytes,
        "saving": {key: 1 - sent[key] / uncompressed[key] if uncompressed[key] else 0.0 for key in SUMS},
        **privacy_of(federation),
        "seconds": {"wall": federation.wall_s, "virtual": virtual_s},
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{package: version(package) for package in ("splitcom", "torch", "transformers", "peft")},
        },
    }
