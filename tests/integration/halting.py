"""Runs that are broken off in the middle of a round, and what two runs have in common."""

import torch
from safetensors.torch import load_file

from splitcom.server.observe import Observer


class Stop(BaseException):
    """As Ctrl-C; what else an observer raises ends nothing."""


class StopAt(Observer):
    def __init__(self, round_index, step):
        self._at = (round_index, step)

    def on_step(self, report):
        if (report.round, report.step) >= self._at:
            raise Stop


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
