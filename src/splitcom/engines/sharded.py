"""The body over several processes, of one machine or of several: its frozen weights are shared out, so are the passes.

    leader (server)  step ─ order: the clients' batches ─► process 1, 2, …
          │                                                    │
       passes 0, n, 2n …                                 passes 1, n + 1, …     each block is put together (FSDP2)
          └──────────── gradients of the adapters: sum ────────┘                just before it runs, and let go

Every process holds the whole adapter with its optimizer, which are small, and so takes the same step: what the leader
says and saves is what `LocalEngine` would, but for rounding.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.engines.engine import LARGEST, Arrival, Gradient, Passage, Position, StepResult
from splitcom.engines.local import LocalEngine, LocalPassage, is_finite
from splitcom.engines.passes import Rows, even_passes
from splitcom.engines.processes import Order, hear, join_up, noticing, sum_up, tell
from splitcom.errors import ConfigError, NonFiniteError
from splitcom.models import Body
from splitcom.training.optimize import DIVERGED

MakeBody = Callable[[Config], Body]


class Share(LocalEngine):
    """What one process does of every step; all of them call the same methods with the same arguments."""

    keeps_graphs = False  # a passage is its rows: nothing has to be kept in step between processes

    def __init__(self, make_body: MakeBody, config: Config) -> None:
        self._rank, self._count = dist.get_rank(), dist.get_world_size()
        self._faults = 0
        device = _own_device(config)
        body = _sharded(make_body, config, device)
        self._trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
        super().__init__(body, config)
        self.device = torch.device(device)

    def _plan(self, rows: Rows) -> list[list[int]]:
        groups = [range(len(rows.lengths))] if self._shares is None else rows.spans.values()
        return [
            [group[row] for row in part]
            for group in groups
            for part in even_passes(rows.lengths[group.start : group.stop], self._max_tokens, self._count)
        ]

    def _mine(self, plan: list[list[int]]) -> Iterable[tuple[int, list[int]]]:
        for first in range(
            0, len(plan), self._count
        ):  # all take as many turns: blocks are put together by all
            index = first + self._rank
            yield index, plan[index] if index < len(plan) else []

    def _check(self, what: str, values: torch.Tensor | None) -> None:
        self._faults += not is_finite(values)

    def _settle(self) -> None:
        faults, self._faults = int(sum_up(torch.tensor(self._faults))), 0
        if faults:
            self._optimizer.forget()
            raise NonFiniteError(f"what comes of a step of the body is not finite; {DIVERGED}")

    def _give_shares(self, num_labels: Mapping[str, int]) -> None:
        if self._shares is None:
            self._sum_gradients()
        else:
            self._shares.merge(num_labels, self._sum_gradients)
        super()._give_shares(num_labels)

    def _sum_gradients(self) -> None:
        """Add up the adapters' gradients of all processes; one that no process has stays none."""
        has = sum_up(torch.tensor([parameter.grad is not None for parameter in self._trained]).long())
        used = [parameter for parameter, number in zip(self._trained, has.tolist(), strict=True) if number]
        if not used:
            return
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in used]
        total = sum_up(torch.cat([gradient.flatten() for gradient in own]))
        parts = torch.split(total, [gradient.numel() for gradient in own])
        for parameter, part in zip(used, parts, strict=True):
            parameter.grad = part.to(parameter.device).view_as(parameter)

    def _of_all(self, values: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        return join_up(values, like)

    def _rows_of_all(self, rows: Rows, parts: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        numbers = join_up(
            [torch.tensor(list(parts), dtype=torch.int64)], torch.zeros(0, dtype=torch.int64)
        ).tolist()
        values = join_up([part.float() for part in parts.values()], torch.zeros(0, self.hidden_size))
        lengths = [rows.lengths[row] for row in numbers]
        return dict(zip(numbers, torch.split(values.to(self._dtype), lengths), strict=True))

    def _all_agree(self, sound: Sequence[bool]) -> bool:
        return not int(sum_up(torch.tensor(not all(sound)).long()))


class ShardedEngine:
    """See `Engine`: the leader's, which tells the others of all that it does."""

    begins_on_cpu = True

    @classmethod
    def check(cls, config: Config) -> None:
        """Raise ConfigError if this is not one of several processes."""
        if not dist.is_initialized():
            raise ConfigError(
                "engine.kind = 'sharded': needs several processes, which the commands `splitcom serve` and "
                "`splitcom train` start themselves, and Python does by torchrun; or set engine.kind = 'placed'"
            )

    def __init__(self, body: Body, config: Config) -> None:
        tell(Order("begin", {"config": config.to_toml()}))
        self._share = Share(lambda _: body, config)
        self.hidden_size, self.num_labels = self._share.hidden_size, self._share.num_labels
        self.device = torch.device("cpu")  # from where they go to all processes
        self.load_adapter(self.adapter())

    def step(
        self, arrivals: Mapping[str, Arrival], position: Position, progress: float
    ) -> dict[str, StepResult]:
        """One optimisation step on the batches of all clients together."""
        said = {"arrivals": _said_of(arrivals), "position": position, "progress": progress}
        with self._telling("step", said, _tensors_of(arrivals)):
            return self._share.step(arrivals, position, progress)

    def forward(
        self, arrivals: Mapping[str, Arrival], position: Position, *, trains: bool = True
    ) -> LocalPassage:
        """The first half of a step in the U-shape."""
        said = {"arrivals": _said_of(arrivals), "position": position, "trains": trains}
        with self._telling("forward", said, _tensors_of(arrivals)):
            passage = self._share.forward(arrivals, position, trains=trains)
        return _Passage(passage.rows, position, trains, passage.out, arrivals=arrivals)

    def backward(
        self, passage: Passage, gradients: Mapping[str, Gradient], progress: float
    ) -> dict[str, StepResult]:
        """The second half of a step in the U-shape."""
        assert isinstance(passage, _Passage)
        if not passage.trains:
            return self._share.backward(passage, gradients, progress)
        numbers = {client: number for client, (_, number) in gradients.items()}
        said = {"arrivals": _said_of(passage.arrivals), "position": passage.position, "numbers": numbers}
        tensors = _tensors_of(passage.arrivals) | {
            f"gradient.{client}": gradient.values
            for client, (gradient, _) in gradients.items()
            if gradient is not None
        }
        with self._telling("backward", said | {"progress": progress}, tensors):
            return self._share.backward(passage, gradients, progress)

    def evaluate(self, arrival: Arrival) -> StepResult:
        """Loss in nats summed over the labels of a held-out batch, their number, and how many were right."""
        arrivals = {"": arrival}
        with self._telling("evaluate", {"arrivals": _said_of(arrivals)}, _tensors_of(arrivals)):
            return self._share.evaluate(arrival)

    def pass_held_out(self, arrival: Arrival) -> Ragged:
        """What a client's tail gets of a held-out batch, in the U-shape."""
        arrivals = {"": arrival}
        with self._telling("pass_held_out", {"arrivals": _said_of(arrivals)}, _tensors_of(arrivals)):
            return self._share.pass_held_out(arrival)

    def is_sound(self, arrival: Arrival, gradient: Gradient | None = None, below: float = LARGEST) -> bool:
        """Whether a client's batch passes the body as it was before training."""
        arrivals, at_tail = {"": arrival}, None if gradient is None else gradient[0]
        tensors = _tensors_of(arrivals) | ({} if at_tail is None else {"gradient.": at_tail.values})
        with self._telling("is_sound", {"arrivals": _said_of(arrivals), "below": below}, tensors):
            return self._share.is_sound(arrival, gradient, below)

    def adapter(self) -> dict[str, torch.Tensor]:
        """The body's adapter."""
        return self._share.adapter()

    def load_adapter(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put an adapter in its place."""
        with self._telling("load_adapter", {}, state):
            self._share.load_adapter(state)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        return self._share.state()

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""
        with self._telling("load_state", {}, state):
            self._share.load_state(state)

    @contextmanager
    def _telling(
        self, name: str, said: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> Iterator[None]:
        tell(Order(name, said, tensors))
        with noticing():
            yield


def follow(make_body: MakeBody) -> None:
    """Do what the leader says, until it says that the run has ended."""
    share: Share | None = None
    while (order := hear()).name != "end":
        if order.name == "begin":
            config = Config.from_toml(order.said["config"], "of the engine's leader")
            share = Share(make_body, config)
            continue
        assert share is not None
        try:
            _do(share, order)
        except NonFiniteError:  # the leader has it too, and decides
            continue


def _do(share: Share, order: Order) -> None:
    said, tensors = order.said, order.tensors
    arrivals = _arrivals_of(said["arrivals"], tensors) if "arrivals" in said else {}
    match order.name:
        case "step":
            share.step(arrivals, tuple(said["position"]), said["progress"])
        case "forward":
            share.forward(arrivals, tuple(said["position"]), trains=said["trains"])
        case "backward":
            passage = LocalPassage(Rows(arrivals), tuple(said["position"]), True, {})
            gradients = {
                client: (
                    Ragged(tensors[f"gradient.{client}"], arrivals[client].decoded.batch.lengths),
                    number,
                )
                for client, number in said["numbers"].items()
            }
            share.backward(passage, gradients, said["progress"])
        case "evaluate":
            share.evaluate(arrivals[""])
        case "pass_held_out":
            share.pass_held_out(arrivals[""])
        case "is_sound":
            lengths = arrivals[""].decoded.batch.lengths
            gradient = (Ragged(tensors["gradient."], lengths), 1) if "gradient." in tensors else None
            share.is_sound(arrivals[""], gradient, said["below"])
        case "load_adapter":
            share.load_adapter(tensors)
        case "load_state":
            share.load_state(tensors)
        case other:
            raise AssertionError(f"no such order: {other}")


@dataclass(frozen=True)
class _Passage(LocalPassage):
    """With what the others need of it once more."""

    arrivals: Mapping[str, Arrival] = field(kw_only=True)


def _said_of(arrivals: Mapping[str, Arrival]) -> list[Any]:
    return [
        [client, arrival.trains_front, [len(row) for row in arrival.labels]]
        for client, arrival in arrivals.items()
    ]


def _tensors_of(arrivals: Mapping[str, Arrival]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for client, arrival in arrivals.items():
        batch = arrival.decoded.batch
        tensors |= {f"values.{client}": batch.values, f"lengths.{client}": batch.lengths}
        if arrival.labels:
            labels = np.concatenate(arrival.labels).astype(np.int64)
            tensors[f"labels.{client}"] = torch.from_numpy(labels)
    return tensors


def _arrivals_of(said: Sequence[Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, Arrival]:
    arrivals = {}
    for client, trains_front, sizes in said:
        batch = Ragged(tensors[f"values.{client}"], tensors[f"lengths.{client}"])
        labels = [part.numpy() for part in torch.split(tensors[f"labels.{client}"], sizes)] if sizes else []
        ids = list(range(len(batch.lengths)))
        decoded = Decoded(batch, ids, torch.zeros(len(ids), dtype=torch.bool))
        arrivals[client] = Arrival(decoded, labels, trains_front)
    return arrivals


def _own_device(config: Config) -> str:
    """Where this process computes: the GPU of its number on its machine, if there are any."""
    uses_cuda = torch.cuda.is_available() if config.model.device == "auto" else "cuda" in config.model.device
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if uses_cuda else "cpu"


def _sharded(make_body: MakeBody, config: Config, device: str) -> Body:
    """A body whose frozen weights are shared out, block by block; what is trained is whole in every process."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        torch.cuda.set_device(device)
    mesh = DeviceMesh.from_group(dist.new_group(backend="nccl" if kind == "cuda" else "gloo"), kind)
    own = int(os.environ.get("LOCAL_RANK", 0))
    turns = torch.tensor(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    dist.all_reduce(turns, dist.ReduceOp.MAX)
    for turn in range(int(turns)):  # no more than one whole body in the memory of a machine
        if turn == own:
            body = make_body(config)
            _shard(body, mesh, device)
        dist.barrier()
    return body


def _shard(body: Body, mesh: DeviceMesh, device: str) -> None:
    trained = {parameter for parameter in body.parameters() if parameter.requires_grad}
    head = body.model.get_output_embeddings()
    own_unit = [] if head is None or body.anatomy.tied or not body.span.last else [head]
    for module in (*body.blocks, *own_unit, body):
        fully_shard(module, mesh=mesh, ignored_params=trained)
    for parameter in trained:
        parameter.data = parameter.data.to(device)
