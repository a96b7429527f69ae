"""One run from configuration to run folder: build the parties, train, record after each round, export."""

import platform
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from math import exp
from pathlib import Path
from typing import Any

import torch

from splitcom.config import Config
from splitcom.errors import ConfigError, RunError
from splitcom.flows import SUMS
from splitcom.methods import METHODS
from splitcom.methods.record import Record
from splitcom.methods.text import Writer, generate_pairs, score_text
from splitcom.metrics.record import RunFolder
from splitcom.models import Part, adapter_state, export_adapter
from splitcom.parties.known_rows import check_rows
from splitcom.parties.parts import Parts, check_parts, load_parts
from splitcom.parties.texts import Texts, load_texts, with_classes
from splitcom.server.observe import Observer, Observers
from splitcom.server.rounds import Federation
from splitcom.simulation.simulation import Simulation
from splitcom.training.store import PartyStore


@dataclass(frozen=True)
class Run:
    """A finished run: where it is and what came of it (the content of result.json)."""

    folder: Path
    result: dict[str, Any]

    @property
    def adapter(self) -> Path:
        """The PEFT adapter for the whole model."""
        return self.folder / "adapter"


def configured(config: Config) -> Config:
    """The configuration with what its method prescribes; raises ConfigError for an unknown method."""
    if config.method not in METHODS:
        raise ConfigError(f"method = {config.method!r}: no such method; there are {', '.join(METHODS)}")
    return METHODS[config.method].configure(config)


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    label: str | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """Run a configuration with all parties in this process and write the run folder `out`.

    Observers hear of what goes on (see `splitcom.server.observe`). Where the run is interrupted, by a signal, an error
    or a crash, `resume=True` continues it after the last completed round to the same bits. Raises RunError where the
    folder exists and is not to be resumed, or was started with another configuration;
    and what a wrong configuration, model or data set raises.
    """
    config = with_classes(configured(config))
    folder = RunFolder(out)
    with folder.locked():
        return _train_into(folder, config, resume, label, observers)


def _train_into(
    folder: RunFolder, config: Config, resume: bool, label: str | None, observers: Sequence[Observer]
) -> Run:
    observer = Observers([Record(folder), *observers])
    if resume:
        check_same_configuration(folder, config)
        if (result := folder.result()) is not None:
            return Run(folder.path, result)
    else:
        folder.refuse_if_used()
    check_parts(config)
    texts = load_texts(config)
    observer.on_data(texts.report, str(texts.partition))
    parts = load_parts(config)
    simulation = Simulation(config, texts, parts, folder.checkpoints, observer)
    with closing(simulation):
        if not resume:
            folder.create(config.to_toml())
        _check_rows(folder, config, texts)
        run_rounds(simulation.federation, observer)
    export(simulation.federation, parts, folder, config)
    result = result_of(simulation.federation, config, label or config.method, simulation.clock.server_time_s)
    settings = config.evaluation
    if config.data.classes is None and (settings.generate or settings.text_samples):
        writer = Writer.of_run(config, folder.adapter)
        if settings.generate:
            result["samples"] = generate_pairs(writer, texts.held_out.samples)
        if settings.text_samples:
            result["text"] = score_text(writer, observer.on_text)
    folder.write_result(result)
    return Run(folder.path, result)


def _check_rows(folder: RunFolder, config: Config, texts: Texts) -> None:
    """Raise DataError where a run that goes on would do so on other rows, or on other clients' rows."""
    groups = dict(zip(config.client_names, texts.partition.parts, strict=True))
    check_rows(
        folder.checkpoints,
        {**groups, "held out": texts.held_out.samples},
        goes_on=PartyStore(folder.checkpoints / "server").latest() is not None,
        remedy="start a new run with them: give another folder with --out",
    )


def run_rounds(federation: Federation, observer: Observer) -> None:
    """Run what is left of a run, and tell of each round as it ends."""
    for lines in federation.run():
        observer.on_round(lines)


def check_same_configuration(folder: RunFolder, config: Config) -> None:
    """Raise RunError, naming what differs, where a run folder was started with another configuration."""
    started = Config.from_toml(folder.config_toml(), where=str(folder.path / "config.toml"))
    if started == config:
        return
    was, now = _flat(started.model_dump()), _flat(config.model_dump())
    changed = [
        f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(was | now)
        if was.get(key) != now.get(key)
    ]
    raise RunError(
        f"{folder.path}: cannot resume with another configuration: {'; '.join(changed)}; undo the change, or start "
        "a new run with another --out"
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def export(federation: Federation, parts: Parts, folder: RunFolder, config: Config) -> None:
    """Write the adapter of all parts, and what controllers have learned."""
    folder.guard(lambda: federation.controllers.export(folder.controllers))
    adapter = federation.adapter
    if federation.engine is not None:
        adapter = adapter | federation.engine.adapter()

    def of(part: Part | None) -> dict[str, torch.Tensor]:
        return {} if part is None else {name: adapter[name] for name in adapter_state(part)}

    folder.guard(
        lambda: export_adapter(
            folder.adapter,
            config.model.source,
            of(parts.front),
            of(parts.body),
            of(parts.tail),
            cut=config.model.cut,
            rank=config.lora.rank,
            alpha=config.lora.alpha,
            dropout=config.lora.dropout,
            labels=config.data.classes,
        )
    )


def result_of(federation: Federation, config: Config, label: str, virtual_s: float) -> dict[str, Any]:
    """The content of result.json."""
    losses = federation.eval_losses
    last = losses[max(losses)]
    accuracies = federation.eval_accuracies
    accuracy = {"accuracy": accuracies[max(accuracies)]} if accuracies else {}
    sent = federation.ledger.totals()
    uncompressed = {key: federation.uncompressed[key] for key in sent}
    return {
        "method": config.method,
        "label": label,
        "model": config.model.source,
        "seed": config.seed,
        "rounds": config.training.rounds,
        "clients": config.federation.clients,
        "eval": {
            "loss": last,
            "perplexity": exp(min(last, 700.0)),
            "best_loss": min(losses.values()),
            "initial_loss": losses[0],
            **accuracy,
        },
        "bytes": sent,
        "uncompressed_bytes": uncompressed,
        "repeated_bytes": federation.ledger.repeated_bytes,
        "saving": {key: 1 - sent[key] / uncompressed[key] if uncompressed[key] else 0.0 for key in SUMS},
        "seconds": {"wall": federation.wall_s, "virtual": virtual_s},
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{package: version(package) for package in ("splitcom", "torch", "transformers", "peft")},
        },
    }
