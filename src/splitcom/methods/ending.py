"""What comes after training: the adapter, sample text, scores. Nothing here can lose a run that has trained.

    result.json ─► adapter/, controller/ ─► samples ─► scores
        └── written first, and again after each step: with what it found, or with the reason why it failed

A step that failed is a warning, and is done when the run is resumed.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from splitcom.config import Config
from splitcom.data import Sample
from splitcom.durable import new_folder
from splitcom.errors import RunError, SplitComError
from splitcom.methods.classes import tell_classes
from splitcom.methods.text import Writer, score_text, write_pairs
from splitcom.metrics.record import RunFolder
from splitcom.models import Part, adapter_state, export_adapter
from splitcom.parties.parts import Parts
from splitcom.server.controllers import Controllers
from splitcom.server.observe import Observer

_LOG = logging.getLogger(__name__)


class Ending:
    """The end of one run; `result` is what result.json says."""

    def __init__(self, folder: RunFolder, result: Mapping[str, Any]) -> None:
        self._folder = folder
        self.result = {**result, "warnings": list(result.get("warnings", ()))}

    def keep(self) -> None:
        """Write result.json; raises RunError if it cannot be written."""
        self._folder.write_result(self.result)

    def attempt(self, what: str, step: Callable[[], Mapping[str, Any]]) -> None:
        """Do a step and put what it returns into the result; its failure is a warning there and in the log."""
        before = self.result
        others = [text for text in before["warnings"] if not text.startswith(f"{what}: ")]
        self.result = {**before, "warnings": others}
        try:
            self.result.update(step())
        except Exception as error:
            reason = str(error) if isinstance(error, SplitComError) else f"{type(error).__name__}: {error}"
            warning = f"{what}: {reason}"
            _LOG.warning("%s\nthe run has ended, and --resume tries this again", warning)
            _LOG.debug("how this has failed", exc_info=error)
            self.result["warnings"].append(warning)
        try:
            if self.result != before:
                self.keep()
        except RunError as error:
            _LOG.warning("%s", error)


@dataclass(frozen=True)
class Trained:
    """What training has left: the adapter of all parts, the controllers, and what result.json says of it."""

    adapter: Mapping[str, torch.Tensor]
    controllers: Controllers
    result: dict[str, Any]


def export(trained: Trained, parts: Parts, folder: RunFolder, config: Config) -> dict[str, Any]:
    """Write the adapter of all parts, and what controllers have learned; there is nothing to add to the result."""

    def of(part: Part | None) -> dict[str, torch.Tensor]:
        return {} if part is None else {name: trained.adapter[name] for name in adapter_state(part)}

    def write() -> None:
        trained.controllers.export(folder.controllers)
        with new_folder(folder.adapter) as partial:
            export_adapter(
                partial,
                config.model.source,
                of(parts.front),
                of(parts.body),
                of(parts.tail),
                cut=config.cuts[-1 if config.lora.train_front else 0],
                rank=config.lora.rank,
                alpha=config.lora.alpha,
                dropout=config.lora.dropout,
                rslora=config.lora.use_rslora,
                dora=config.lora.use_dora,
                labels=config.data.classes,
            )

    folder.guard(write)
    return {}


def write_texts(
    ending: Ending,
    config: Config,
    make_writer: Callable[[], Writer],
    held_out: Callable[[], Sequence[Sample]],
    observer: Observer,
) -> None:
    """Have the model write, tell classes and be scored, as `evaluation` asks for it, in place of what there is."""
    writer = cache(make_writer)
    steps: dict[str, tuple[str, Callable[[], Any]]] = {
        "samples": ("sample text", lambda: write_pairs(writer(), held_out())),
        "text": ("scores of text", lambda: score_text(writer(), observer.on_text)),
        "confusion": ("confusion matrix", lambda: tell_classes(writer(), held_out())),
    }
    for key, (what, step) in steps.items():
        ending.result.pop(key, None)
        if key in texts_of(config):
            ending.attempt(what, lambda key=key, step=step: {key: step()})  # type: ignore[misc]


def texts_of(config: Config) -> set[str]:
    """What of a result is text that the model has written, or scores of it; a classifier only tells classes."""
    if config.data.task == "classification":  # which classes may not be known yet
        return {"confusion"}
    wanted = {"samples": config.evaluation.generate, "text": config.evaluation.text_samples}
    return {key for key, number in wanted.items() if number}
