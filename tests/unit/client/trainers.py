"""A model of three numbers, samples for it, and the server's ends of its flows."""

import torch
from torch import nn

from splitcom.codecs import parse
from splitcom.config import Config
from splitcom.data import IGNORED, Sample
from splitcom.training.channel import Channel

VOCABULARY = 7
WIDTH = 4
CONFIG = Config(training={"batch_size": 2, "rounds": 2, "lr": 0.1, "clip_norm": 1.0})


def table(rows, columns, seed):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


class Front(nn.Module):
    """Embeds tokens and multiplies them by what it learns."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2.0, WIDTH))
        self.table = table(VOCABULARY, WIDTH, 1)

    def forward(self, ids, mask):
        return self.table[ids] * self.scale


class Last(nn.Module):
    """A body or a tail: logits of the positions that are asked for."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(VOCABULARY))
        self.table = table(WIDTH, VOCABULARY, 2)

    def forward(self, hidden, mask, at=None):
        logits = hidden @ self.table * self.scale
        return logits if at is None else logits[at]


def sample(sample_id, *ids):
    """The first token is the prompt."""
    tokens = torch.tensor(ids)
    labels = tokens.clone()
    labels[0] = IGNORED
    return Sample(sample_id, tokens, labels, None)


SAMPLES = [sample(3, 1, 2, 3), sample(5, 4, 5), sample(8, 6, 1, 2, 3)]


def channels(
    codec="none", flows=("activation_up", "gradient_down", "activation_down", "gradient_up", "evaluation")
):
    """One side's; two calls give both."""
    return {flow: Channel(flow, "c", parse(codec), None, 0) for flow in flows}
