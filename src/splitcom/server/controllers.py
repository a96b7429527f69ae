"""The controllers of a run, all at the server: it sees the held-out loss, and tells all the thresholds and steps.

lines of metrics.jsonl ─► Feedback of a flow ─► controller ─► Decision ─► round_start ─► both ends of the flow
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from splitcom.checksums import fault_in, write_checksums
from splitcom.codecs import parse as parse_codec
from splitcom.config import Config
from splitcom.control import Controller, Decision, Feedback, Knob, parse
from splitcom.durable import write_atomic
from splitcom.errors import ConfigError
from splitcom.metrics.record import RunFolder
from splitcom.seeds import derive_seed
from splitcom.state import State
from splitcom.training.store import sections_of


@dataclass(frozen=True)
class _Steering:
    controller: Controller
    flows: tuple[str, ...]


class Controllers:
    """By name: that of the flow, or "shared". Raises ConfigError if one lacks a package or its `start_from`."""

    def __init__(self, config: Config) -> None:
        self._rounds = config.training.rounds
        flows_of: dict[tuple[str, str], list[str]] = {}
        for flow, controller in config.steering.items() if config.training.split else ():
            flows_of.setdefault(controller, []).append(flow)
        self._steered = {
            name: _Steering(
                parse(text, derive_seed(config.seed, "controller", name), _knob_of(config, flows)),
                tuple(flows),
            )
            for (name, text), flows in flows_of.items()
        }
        for steering in self._steered.values():
            steering.controller.prepare()
        if config.control.start_from is not None:
            self._start_from(RunFolder(config.control.start_from).controllers)

    @property
    def decisions(self) -> dict[str, Decision]:
        """Of the next round, by flow; flows that have no controller are not in it."""
        return {flow: s.controller.decide() for s in self._steered.values() for flow in s.flows}

    @property
    def freezes_fronts(self) -> bool:
        """Whether fronts are not to be trained in the next round; the controller of their activations says so."""
        return self.decisions.get("activation_up", Decision()).frozen

    def observe(self, round_index: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Tell every controller what a round has shown, from its lines of metrics.jsonl."""
        for steering in self._steered.values():
            steering.controller.observe(self._feedback(round_index, steering.flows, lines))

    def _feedback(
        self, round_index: int, flows: Iterable[str], lines: Sequence[Mapping[str, Any]]
    ) -> Feedback:
        skips = [
            (line["skip_ratio"][flow], line["labels"])
            for line in lines
            for flow in flows
            if flow in line["skip_ratio"]
        ]
        losses = [(line["loss"], line["labels"]) for line in lines if line["loss"] is not None]
        return Feedback(
            round=round_index,
            progress=round_index / self._rounds,
            train_loss=_mean(losses) if losses else None,
            held_out_loss=next((line["eval_loss"] for line in lines), None),
            skip_ratio=_mean(skips),
            sent_bytes=sum(line["bytes"][flow] for line in lines for flow in flows),
            uncompressed_bytes=sum(line["uncompressed_bytes"][flow] for line in lines for flow in flows),
        )

    def state(self) -> State:
        """What a checkpoint keeps."""
        states = {name: steering.controller.state() for name, steering in self._steered.items()}
        tensors = {
            f"{n}.{key}": tensor for n, state in states.items() for key, tensor in state.tensors.items()
        }
        return State(tensors, {name: dict(state.scalars) for name, state in states.items()})

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        sections = sections_of(state.tensors)
        for name, steering in self._steered.items():
            steering.controller.load_state(State(sections[name], state.scalars[name]))

    def export(self, folder: Path) -> None:
        """Write a file for each controller that learns: tensors, and its text and scalars as metadata."""
        for name, steering in self._steered.items():
            state = steering.controller.state()
            if state.tensors:
                folder.mkdir(exist_ok=True)
                metadata = {"controller": str(steering.controller), "scalars": json.dumps(state.scalars)}
                content = save(dict(state.tensors), metadata)
                write_atomic(folder / f"{name}.safetensors", content)
        if folder.exists():
            write_checksums(folder)

    def _start_from(self, folder: Path) -> None:
        """Load what the controllers of these names have learned in another run."""
        files = {name: folder / f"{name}.safetensors" for name in self._steered}
        found = {name: file for name, file in files.items() if file.exists()}
        if not found:
            there = ", ".join(sorted(path.stem for path in folder.glob("*.safetensors"))) or "none"
            raise ConfigError(
                f"control.start_from: {folder} has no controller for {', '.join(files) or 'this run, which has none'} "
                f"(there: {there}); name the folder of a finished run whose controllers learn, such as ddpg"
            )
        if (fault := fault_in(folder)) is not None:
            raise ConfigError(
                f"control.start_from: {folder}: {fault}; put back a copy, or name another run's folder"
            )
        for name, file in found.items():
            controller = self._steered[name].controller
            try:
                with safe_open(file, "pt") as content:
                    metadata = content.metadata() or {}
                    tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (no mapping)
                theirs = metadata["controller"].partition("(")[0]
                if theirs != controller.name:
                    raise ValueError(f"it is of {metadata['controller']}")
                controller.load_state(State(tensors, json.loads(metadata["scalars"])))
            except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"control.start_from: {file} does not fit {controller}: {error}; start from a run with such a "
                    "controller, or leave it out"
                ) from error


def _knob_of(config: Config, flows: Sequence[str]) -> Knob:
    """What the flows of one controller have in common; the configuration has been checked."""
    knob = parse_codec(config.flows[flows[0]].codec).knob
    assert knob is not None
    return knob.name


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else 0.0
