"""The body in this process: forward, loss, backward and step, in passes of bounded size.

A step whose samples fit one pass runs as one, unless each client's part in the gradients is bounded: then each has
passes of its own. Else gradients add up over its passes, and what is between the passes
forward and backward in the U-shape is computed again, so that no more than one graph is in memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from splitcom.codecs import Ragged
from splitcom.config import Config
from splitcom.engines.engine import LARGEST, Arrival, Gradient, Passage, Position, StepResult
from splitcom.engines.passes import Pass, Rows, plan_passes, samples_of
from splitcom.engines.shares import Shares
from splitcom.errors import NonFiniteError
from splitcom.models import Body, adapter_state, load_adapter_state, without_adapters
from splitcom.models.dropout import seed_dropout
from splitcom.models.split import WIDENS
from splitcom.models.views import deeper
from splitcom.seeds import derive_seed
from splitcom.training.loss import losses_through
from splitcom.training.optimize import DIVERGED, Optimizer
from splitcom.training.store import sections_of


@dataclass(frozen=True)
class LocalPassage:
    """What the forward pass of a step has given, and its graph if there was one pass and it has not been used."""

    rows: Rows
    position: Position
    trains: bool
    out: dict[int, torch.Tensor]  # of each row, [tokens, hidden]
    graphs: list[tuple[Pass, torch.Tensor]] = field(default_factory=list)

    def out_of(self, client: str) -> Ragged:
        """What the body gave for a client's batch."""
        return self.rows.ragged(self.rows.spans[client], self.out)


class LocalEngine:
    """See `Engine`; at most `engine.max_tokens_per_pass` tokens with their padding go through the body at once.

    What runs a body elsewhere may take other passes, and settle between processes what has come of them.
    """

    begins_on_cpu = False
    keeps_graphs = True

    @classmethod
    def check(cls, config: Config) -> None:
        """There is nothing that this process may lack."""

    def __init__(self, body: Body, config: Config) -> None:
        self._body = body
        self._later = {cut: deeper(body, cut) for cut in config.cuts[1:]}  # where some clients enter
        in_fronts = body.blocks[: config.cuts[-1] - config.cuts[0]]
        self._in_fronts = [own for block in in_fronts for own in block.parameters() if own.requires_grad]
        self._seed = config.seed
        self._smoothing = config.training.label_smoothing
        self._max_tokens = config.engine.max_tokens_per_pass
        self.device = next(body.parameters()).device
        self._dtype = body.dtype
        self._optimizer = Optimizer((p for p in body.parameters() if p.requires_grad), config.training)
        most = config.federation.max_gradient_ratio
        self._shares = None if most is None else Shares(self._optimizer.parameters, most)
        shape, classes = body.model.config.get_text_config(), config.data.classes
        self.hidden_size = config.model.crossing_width(shape.hidden_size)
        self.num_labels: int = shape.vocab_size if classes is None else len(classes)

    def step(
        self, arrivals: Mapping[str, Arrival], position: Position, progress: float
    ) -> dict[str, StepResult]:
        """One optimisation step on the batches of all clients together."""
        rows = Rows(arrivals)
        num_labels = rows.num_labels
        gradients: dict[int, torch.Tensor] = {}
        losses, corrects, owners = [], [], []
        self._train()
        self._begin_shares()
        for one in self._passes(rows, position):
            one.hidden.requires_grad_(rows.trains_fronts)
            assert one.labels is not None
            found = losses_through(self._at(one.cut), one.hidden, one.mask, one.labels, self._smoothing)
            torch.autograd.backward(found.losses.sum() / num_labels)
            self._check("the loss", found.losses)
            self._check("the gradient at the cut", one.hidden.grad)
            gradients |= one.real_tokens(one.hidden.grad)
            self._take_share(rows, one)
            if one.rows:
                losses.append(found.losses.detach())
                corrects.append(found.correct.long())
                owners.append(torch.tensor(one.rows)[found.rows.cpu()])
        self._settle()
        self._give_shares({client: rows.num_labels_of(client) for client in rows.spans})
        self._take_step(rows, progress)

        loss = self._of_all(losses, torch.zeros(0))
        correct = self._of_all(corrects, torch.zeros(0, dtype=torch.int64))
        owner = self._of_all(owners, torch.zeros(0, dtype=torch.int64))
        gradients = self._rows_of_all(rows, gradients)
        results = {}
        for client, span in rows.spans.items():
            mine = (span.start <= owner) & (owner < span.stop)
            own = loss[mine]
            gradient = _scaled(rows, client, gradients, num_labels / max(len(own), 1))
            results[client] = StepResult(gradient, float(own.sum()), len(own), int(correct[mine].sum()))
        return results

    def forward(
        self, arrivals: Mapping[str, Arrival], position: Position, *, trains: bool = True
    ) -> LocalPassage:
        """The first half of a step in the U-shape."""
        rows = Rows(arrivals)
        passage = LocalPassage(rows, position, trains, {})
        keeps = trains and self.keeps_graphs and len(self._plan(rows)) == 1
        self._train(trains)
        for one in self._passes(rows, position):
            with torch.set_grad_enabled(keeps):
                out = self._at(one.cut)(one.hidden.requires_grad_(keeps and rows.trains_fronts), one.mask)
            self._check("what comes out of the body", out[one.mask.bool()])
            passage.out.update(one.real_tokens(out.detach()))
            if keeps:
                passage.graphs.append((one, out))
        self._settle()
        passage.out.update(self._rows_of_all(rows, passage.out))
        return passage

    def backward(
        self, passage: Passage, gradients: Mapping[str, Gradient], progress: float
    ) -> dict[str, StepResult]:
        """The second half of a step in the U-shape."""
        assert isinstance(passage, LocalPassage)
        numbers = {client: num_labels for client, (_, num_labels) in gradients.items()}
        if not passage.trains:
            return {client: StepResult(None, 0.0, number) for client, number in numbers.items()}
        total, rows = sum(numbers.values()), passage.rows
        arrived: dict[int, tuple[torch.Tensor, float]] = {}  # gradient and weight, by row
        for client, (gradient, number) in gradients.items():
            assert gradient is not None
            parts = samples_of(gradient)
            arrived |= {
                row: (part, number / total) for row, part in zip(rows.spans[client], parts, strict=True)
            }
        at_cut: dict[int, torch.Tensor] = {}
        self._begin_shares()
        for one, out in self._graphs(passage):
            torch.autograd.backward(out, _weighed(arrived, one, out))
            self._check("the gradient at the cut", one.hidden.grad)
            at_cut |= one.real_tokens(one.hidden.grad)
            self._take_share(rows, one)
        self._settle()
        self._give_shares(numbers)
        self._take_step(rows, progress)
        at_cut = self._rows_of_all(rows, at_cut)
        return {
            client: StepResult(_scaled(rows, client, at_cut, total / number), 0.0, number)
            for client, number in numbers.items()
        }

    def is_sound(self, arrival: Arrival, gradient: Gradient | None = None, below: float = LARGEST) -> bool:
        """Whether a client's batch passes the body as it was before training.

        If it does, and yet cannot be trained on, it is the training that has diverged.
        """
        trained = self.adapter()
        head = {
            name: torch.zeros_like(tensor)
            for name, tensor in trained.items()
            if ".lora_" not in name and name != WIDENS
        }
        if head:  # else nothing is written, as there may be graphs that hold the adapters
            load_adapter_state(self._body, trained | head)
        self._train(False)
        at_tail = None if gradient is None else gradient[0]
        try:
            rows = Rows({"": arrival})
            arrived = {} if at_tail is None else dict(enumerate(samples_of(at_tail)))
            with without_adapters(self._bodies):
                return self._all_agree([self._is_sound(one, arrived, below) for one in self._passes(rows)])
        finally:
            if head:
                load_adapter_state(self._body, trained)
            self._optimizer.forget()

    def _is_sound(self, one: Pass, arrived: Mapping[int, torch.Tensor], below: float) -> bool:
        one.hidden.requires_grad_()
        if one.labels is not None:
            losses = losses_through(self._at(one.cut), one.hidden, one.mask, one.labels).losses
            torch.autograd.backward(losses.sum() / max(len(losses), 1))
            return is_finite(losses) and is_finite(one.hidden.grad, below)
        out = self._at(one.cut)(one.hidden, one.mask)
        if arrived:  # else there is no more to look at than what comes out
            torch.autograd.backward(
                out, _weighed({row: (part, 1.0) for row, part in arrived.items()}, one, out)
            )
        return is_finite(out[one.mask.bool()], below) and is_finite(one.hidden.grad, below)

    @torch.no_grad()
    def evaluate(self, arrival: Arrival) -> StepResult:
        """Loss in nats summed over the labels of a held-out batch, their number, and how many were right."""
        self._train(False)
        sums = []
        for one in self._passes(Rows({"": arrival})):
            assert one.labels is not None
            found = losses_through(self._at(one.cut), one.hidden, one.mask, one.labels)
            if one.rows:
                numbers = float(found.losses.double().sum()), len(found.losses), int(found.correct.sum())
                sums.append(torch.tensor(numbers, dtype=torch.float64)[None])
        rows = self._of_all(sums, torch.zeros(0, 3, dtype=torch.float64)).tolist()
        loss_sum, num_labels, num_correct = (sum(column) for column in zip(*rows, strict=True))
        return StepResult(None, loss_sum, int(num_labels), int(num_correct))

    @torch.no_grad()
    def pass_held_out(self, arrival: Arrival) -> Ragged:
        """What a client's tail gets of a held-out batch, in the U-shape."""
        self._train(False)
        rows = Rows({"": arrival})
        out: dict[int, torch.Tensor] = {}
        for one in self._passes(rows):
            out |= one.real_tokens(self._at(one.cut)(one.hidden, one.mask))
        found = rows.ragged(range(len(rows.values)), self._rows_of_all(rows, out))
        self._check("what comes out of the body", found.values)
        return found

    def adapter(self) -> dict[str, torch.Tensor]:
        """The body's adapter."""
        return adapter_state(self._body)

    def load_adapter(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put an adapter in its place."""
        load_adapter_state(self._body, state)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        adapter = {f"adapter.{name}": tensor for name, tensor in self.adapter().items()}
        return adapter | {f"optimizer.{name}": tensor for name, tensor in self._optimizer.state().items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""
        sections = sections_of(state)
        load_adapter_state(self._body, sections["adapter"])
        self._optimizer.load_state(sections["optimizer"])

    def _plan(self, rows: Rows) -> list[list[int]]:
        """Passes of rows that enter at the same block, and of one client alone if its share is looked at."""
        groups = rows.by_cut if self._shares is None else rows.spans.values()
        return [
            [group[row] for row in part]
            for group in groups
            for part in plan_passes([rows.lengths[row] for row in group], self._max_tokens)
        ]

    def _at(self, cut: int | None) -> Body:
        """The body from the block on at which a pass enters."""
        return self._body if cut is None else self._later.get(cut, self._body)

    def _take_step(self, rows: Rows, progress: float) -> None:
        """Have the adapter learn; of blocks that are in some fronts only if those learn, too."""
        if not rows.trains_fronts:
            for parameter in self._in_fronts:
                parameter.grad = None
        self._optimizer.step(progress)

    @property
    def _bodies(self) -> list[Body]:
        return [self._body, *self._later.values()]

    def _train(self, mode: bool = True) -> None:
        for body in self._bodies:
            body.train(mode)

    def _begin_shares(self) -> None:
        if self._shares is not None:
            self._shares.begin()

    def _take_share(self, rows: Rows, one: Pass) -> None:
        if self._shares is not None and one.rows:
            self._shares.take(next(client for client, span in rows.spans.items() if one.rows[0] in span))

    def _give_shares(self, num_labels: Mapping[str, int]) -> None:
        if self._shares is not None:
            self._shares.give(num_labels)

    def _passes(self, rows: Rows, position: Position | None = None) -> Iterator[Pass]:
        """One pass after the other, each with the draws that are its own at this position."""
        for index, part in self._mine(self._plan(rows)):
            if position is not None:  # dropout
                draw = (*position, index) if index else position
                seed_dropout(self.device, derive_seed(self._seed, "server", *draw))
            yield rows.take(part, self.device, self._dtype)

    def _mine(self, plan: list[list[int]]) -> Iterable[tuple[int, list[int]]]:
        """Those passes of a plan that this process computes; one without rows computes nothing that counts."""
        return enumerate(plan)

    def _settle(self) -> None:
        """Come to an end of a step's passes: together, if there are more processes."""

    def _of_all(self, values: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """What all passes have given, one after the other; `like` is of its form, and empty."""
        return torch.cat([*values])

    def _rows_of_all(self, rows: Rows, parts: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """What all passes have given of each row."""
        return dict(parts)

    def _all_agree(self, sound: Sequence[bool]) -> bool:
        """Whether all passes say so."""
        return all(sound)

    def _graphs(self, passage: LocalPassage) -> Iterator[tuple[Pass, torch.Tensor]]:
        """The forward pass of a step, as it was kept or once more, to the same bits."""
        if passage.graphs:
            yield passage.graphs.pop()
            return
        self._train()
        for one in self._passes(passage.rows, passage.position):
            one.hidden.requires_grad_(passage.rows.trains_fronts)
            yield one, self._at(one.cut)(one.hidden, one.mask)

    def _check(self, what: str, values: torch.Tensor | None) -> None:
        if not is_finite(values):
            self._optimizer.forget()
            raise NonFiniteError(f"{what} of a step of the body is not finite; {DIVERGED}")


def is_finite(values: torch.Tensor | None, below: float = LARGEST) -> bool:
    """Whether all of it is of magnitudes `below` this one."""
    if values is None or values.numel() == 0:
        return True
    return bool(values.detach().abs().amax() < below)  # not so if there is a NaN


def _scaled(rows: Rows, client: str, parts: Mapping[int, torch.Tensor], scale: float) -> Ragged | None:
    """A client's part of the gradient at the cut, times `scale`: from the step's mean to that over its own labels."""
    if not parts:
        return None
    gradient = rows.ragged(rows.spans[client], parts)
    return gradient if scale == 1 else Ragged(gradient.values * scale, gradient.lengths)


def _weighed(arrived: Mapping[int, tuple[torch.Tensor, float]], one: Pass, out: torch.Tensor) -> torch.Tensor:
    """Gradients at the tail's input, each times its weight, laid out as `out`; zeros for clients that are gone."""
    gradient = torch.zeros_like(out)
    for place, row in enumerate(one.rows):
        if row in arrived:
            values, weight = arrived[row]
            gradient[place, : len(values)] = values.to(gradient) * weight
    return gradient
