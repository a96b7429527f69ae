"""What the server knows of each client's training: channels, labels, task, last gradient, counts of the round.

Knows nothing of connections: who is there is told by `conversations`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from splitcom.codecs import Ragged
from splitcom.protocol.labels import Labels
from splitcom.server.outliers import Brought, Seen
from splitcom.training.channel import Channels, forget_batches


@dataclass
class Task:
    """The round that a client is training or has paused; `round` names its batches and draws."""

    round: int
    version: int  # of the shared adapter, from which it began
    place: float | None = None  # where in the run, in rounds from 1; None: at `round`
    is_frozen: bool = False  # by a controller: the front, and in the U-shape the body
    next_step: int = 0
    num_labels: int = 0  # trained on so far
    is_pausing: bool = False
    is_abandoned: bool = False
    chunk_steps: int = 0  # of a round that is trained in chunks
    chunks: int = 0  # that it has ended
    goes_on: bool = False  # with another one
    along_last: bool = False  # in the linear estimate of a chunk
    segment: int = 0  # of the adapter, that is sent in the end


@dataclass
class Counts:
    """What a client has done in a round of the run."""

    steps: int = 0
    tokens: int = 0
    uncompressed_bytes: int = 0  # of the activations of these steps
    loss_sum: float = 0.0  # nats, over `num_labels`
    num_labels: int = 0
    num_correct: int = 0
    updates: int = 0
    staleness: int = 0  # versions, summed over these updates
    activation: Seen = field(default_factory=Seen)
    gradient: Seen = field(default_factory=Seen)  # of tails
    held_out_batches: int = 0  # evaluated, also once more exactly

    @property
    def loss(self) -> float | None:
        """The mean in training, nats per label; None if there are no labels."""
        return self.loss_sum / self.num_labels if self.num_labels else None

    def brought(self, cut: int) -> Brought:
        """What of this is held against the other clients'; the loss only of ended rounds, as it may come then."""
        return Brought(self.activation, self.gradient, self.loss if self.updates else None, cut)


@dataclass
class ClientState:
    """The server's part of what it shares with one client."""

    channels: Channels
    acknowledged_round: int | None = None  # after which the client has last kept its state
    base_version: int = 0  # from which its last round began; 0: it has ended none
    adapter_version: int = 0  # that the client holds; 0: none, DRAWN: see `shared`
    labels: dict[int, Labels] = field(default_factory=dict)
    held_out_labels: dict[int, Labels] = field(default_factory=dict)
    task: Task | None = None
    gradient: tuple[Ragged, list[int]] | None = None  # of the last step, until the client is known to have it
    counts: Counts = field(default_factory=Counts)
    num_released: int = 0  # vectors under noise that have ever left of one of its samples
    num_updates: int = 0  # of its adapters under noise that have ever left

    def all_labels(self) -> dict[str, dict[int, Labels]]:
        """The labels the server has of the client's samples, by what the samples are for."""
        return {"labels": self.labels, "held_out_labels": self.held_out_labels}

    def begin_anew(self) -> None:
        """Forget what the client no longer shares; what it has done in this round stays counted."""
        self.acknowledged_round = None
        for labels in self.all_labels().values():
            labels.clear()
        self.begin_adapter_anew()

    def begin_adapter_anew(self) -> None:
        """Forget what the client no longer shares if it holds other blocks than before."""
        self.adapter_version = self.base_version = 0
        self.end_task()
        for channel in self.channels.values():
            if channel.references is not None:
                channel.references.clear()

    def end_task(self) -> None:
        """The client trains no round, and nothing of a step is sent again."""
        self.task = self.gradient = None
        forget_batches(self.channels)

    def forget_counts(self) -> None:
        """Begin the counts of a round."""
        self.counts = Counts()
        for channel in self.channels.values():
            channel.take_traffic()


class ClientStates(dict[str, ClientState]):
    """By client; that of a new one is made when it is first asked for.

    >>> states = ClientStates(lambda name: {})
    >>> states["clinic-a"].counts.steps
    0
    """

    def __init__(self, open_channels: Callable[[str], Channels]) -> None:
        super().__init__()
        self._open_channels = open_channels

    def __missing__(self, name: str) -> ClientState:
        self[name] = ClientState(self._open_channels(name))
        return self[name]

    def begin_anew(self, name: str) -> None:
        """Forget what this client no longer shares."""
        self[name].begin_anew()

    def begin_adapters_anew(self, names: Iterable[str]) -> None:
        """Forget what these clients no longer share, since they hold other blocks than before."""
        for name in names:
            self[name].begin_adapter_anew()

    def brought(self, cut_of: Callable[[str], int]) -> dict[str, Brought]:
        """What those who have trained in this round have brought."""
        return {name: of.counts.brought(cut_of(name)) for name, of in self.items() if of.counts.steps}

    def versions_in_use(self) -> set[int]:
        """The versions of the shared adapter from which rounds that are under way began."""
        return {state.task.version for state in self.values() if state.task is not None}

    def forget_tasks(self) -> None:
        """Nobody trains."""
        for state in self.values():
            state.end_task()
