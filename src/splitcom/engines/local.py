"""What the server does with the batches of one step: body forward, loss, body backward, gradients back to the cut.

In the U-shape the loss is the clients' business: the body's two passes are apart, and what is between is a `Passage`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.errors import NonFiniteError, RemoteProtocolError
from splitcom.models import Body, adapter_state, load_adapter_state
from splitcom.protocol.labels import IGNORED, Labels
from splitcom.seeds import derive_seed
from splitcom.training.loss import learnt_at, losses_of, losses_through
from splitcom.training.optimize import DIVERGED, Optimizer
from splitcom.training.store import sections_of

_LARGEST = 1e30  # codecs take up to 1e34, and gradients are weighed before


@dataclass(frozen=True)
class Arrival:
    """One client's batch as the server has decoded it; in the U-shape without labels."""

    decoded: Decoded
    labels: list[Labels]
    trains_front: bool = True  # false: the client needs no gradient

    @property
    def num_samples(self) -> int:
        """How many samples it holds."""
        return len(self.decoded.ids)


@dataclass(frozen=True)
class StepResult:
    """For one client: the gradient of its own mean loss at the cut, and its loss in nats over `num_labels`.

    `num_correct` of them were the likeliest class, where there are classes.

    The gradient is None where the front is frozen and needs none; the loss is 0 in the U-shape, where the client
    keeps it.
    """

    gradient: Ragged | None
    loss_sum: float
    num_labels: int
    num_correct: int = 0


@dataclass(frozen=True)
class Passage:
    """The body between its forward and its backward pass, with the rows of each client; the graph is kept."""

    hidden: torch.Tensor  # [batch, tokens, hidden], what has come in
    out: torch.Tensor  # the same shape in the U-shape, else logits where there are labels
    mask: torch.Tensor  # int64 [batch, tokens]
    rows: Mapping[str, slice]

    def check(self) -> None:
        """Raise NonFiniteError where what the body gave cannot be sent."""
        if not _is_finite(self.out[self.mask.bool()]):
            raise NonFiniteError(f"what comes out of the body is not finite; {DIVERGED}")

    def out_of(self, client: str) -> Ragged:
        """What the body gave for a client's batch."""
        rows = self.rows[client]
        return Ragged.from_padded(self.out.detach()[rows], self.mask[rows])


def _is_finite(values: torch.Tensor | None) -> bool:
    return values is None or bool(values.detach().abs().amax() < _LARGEST)  # not so where there is a NaN


class BodyTrainer:
    """The body, its adapter and its optimizer."""

    def __init__(self, body: Body, config: Config) -> None:
        self._body = body
        self._config = config
        self._device = next(body.parameters()).device
        self._dtype = next(body.parameters()).dtype
        self._optimizer = Optimizer((p for p in body.parameters() if p.requires_grad), config.training)
        shape = body.model.config.get_text_config()
        classes = config.data.classes
        self._classifies = classes is not None
        self._hidden_size = shape.hidden_size
        self._num_classes = shape.vocab_size if classes is None else len(classes)
        batch_size = max(config.training.batch_size, config.evaluation.batch_size)
        self.max_batch_bytes = batch_size * config.data.max_tokens * self._hidden_size * 4

    def admit(
        self, decoded: Decoded, labels: Mapping[int, Labels] | None, trains_front: bool = True
    ) -> Arrival:
        """Join a client's batch with its labels, None in the U-shape.

        Raises RemoteProtocolError where they do not fit this model.
        """
        batch = decoded.batch
        if batch.hidden != self._hidden_size:
            raise RemoteProtocolError(
                f"an activation of width {batch.hidden}; the model's is {self._hidden_size}"
            )
        lengths = batch.lengths.tolist()
        shortest, longest = 1 if self._classifies else 2, self._config.data.max_tokens
        if bad := [length for length in lengths if not shortest <= length <= longest]:
            raise RemoteProtocolError(f"an activation of {bad[0]} tokens; expected {shortest} to {longest}")
        if labels is None:
            return Arrival(decoded, [], trains_front)
        if missing := [sample for sample in decoded.ids if sample not in labels]:
            raise RemoteProtocolError(f"no labels for sample ids {missing}")
        rows = [labels[sample] for sample in decoded.ids]
        for length, row in zip(lengths, rows, strict=True):
            if len(row) != (1 if self._classifies else length):
                raise RemoteProtocolError(f"{len(row)} labels for an activation of {length} tokens")
            if int(row.max()) >= self._num_classes:
                kind = "number of classes" if self._classifies else "vocabulary's size"
                raise RemoteProtocolError(f"a label of {int(row.max())}; the {kind} is {self._num_classes}")
        return Arrival(decoded, rows, trains_front)

    def step(
        self, arrivals: Mapping[str, Arrival], position: tuple[int, int], progress: float
    ) -> dict[str, StepResult]:
        """One optimisation step on the batches of all clients together.

            client a ─┐                                    ┌─► gradient a
            client b ─┼─► hidden [B, T, D] ─► body ─► loss ┼─► gradient b
            client c ─┘                          └─ AdamW  └─► gradient c

        The body learns from the mean over all labelled tokens; each client gets the gradient of the mean over its
        own, as if it were alone, so that its step does not shrink with the number of clients.

        Raises NonFiniteError, and changes nothing, where loss or gradients are not finite.
        """
        labels = self._join_labels(list(arrivals.values()))
        passage = self.forward(arrivals, position, labels)
        losses, rows, correct = losses_of(passage.out, labels)
        torch.autograd.backward(losses.mean())
        self._check("the loss", losses)
        self._check("the gradient at the cut", passage.hidden.grad)
        self._optimizer.step(progress)

        losses = losses.detach()
        results = {}
        for client, span in passage.rows.items():
            mine = (span.start <= rows) & (rows < span.stop)
            own = losses[mine]
            gradient = self._gradient(passage, client, len(losses) / max(len(own), 1))
            results[client] = StepResult(gradient, float(own.sum()), len(own), int(correct[mine].sum()))
        return results

    def forward(
        self,
        arrivals: Mapping[str, Arrival],
        position: tuple[int, int],
        labels: torch.Tensor | None = None,
        trains: bool = True,
    ) -> Passage:
        """Run the batches of all clients together; `labels` where there is no tail.

        Where the body does not train it has no dropout: what it gives of a frozen front's activations never changes.
        """
        hidden, mask = self._join(list(arrivals.values()))
        hidden.requires_grad_(any(arrival.trains_front for arrival in arrivals.values()))
        torch.manual_seed(derive_seed(self._config.seed, "server", *position))  # dropout
        self._body.train(trains)
        rows, first = {}, 0
        for client, arrival in arrivals.items():
            rows[client] = slice(first, first + arrival.num_samples)
            first += arrival.num_samples
        with torch.set_grad_enabled(trains):
            out = self._body(hidden, mask, at=None if labels is None else learnt_at(labels))
        return Passage(hidden, out, mask, rows)

    def backward(
        self, passage: Passage, gradients: Mapping[str, tuple[Ragged | None, int]], progress: float
    ) -> dict[str, StepResult]:
        """The second half of a step in the U-shape, from each client's gradient and its number of labelled tokens.

            gradient a ─┐                                              ┌─► gradient a
            gradient b ─┼─► weighed ─► [B, T, D] ─► body ─► weighed back ┼─► gradient b
            (c is gone) ┘   by number                └─ AdamW

        What comes in is the gradient, at the tail's input, of the mean over the client's own labelled tokens; so body
        and fronts learn from the same means as in `step`. Raises NonFiniteError like it. Where the body is frozen there
        is nothing to do.
        """
        if not passage.out.requires_grad:
            return {
                client: StepResult(None, 0.0, num_labels) for client, (_, num_labels) in gradients.items()
            }
        total = sum(num_labels for _, num_labels in gradients.values())
        out_gradient = torch.zeros_like(passage.out)
        for client, (gradient, num_labels) in gradients.items():
            assert gradient is not None
            rows = passage.rows[client]
            padded = gradient.to_padded(passage.mask[rows].cpu()).to(out_gradient)
            out_gradient[rows] = padded * (num_labels / total)
        torch.autograd.backward(passage.out, out_gradient)
        self._check("the gradient at the cut", passage.hidden.grad)
        self._optimizer.step(progress)
        return {
            client: StepResult(self._gradient(passage, client, total / num_labels), 0.0, num_labels)
            for client, (_, num_labels) in gradients.items()
        }

    def is_sound(self, arrival: Arrival, gradient: tuple[Ragged | None, int] | None = None) -> bool:
        """Whether a client's batch, in the U-shape with its gradient, passes the body as it was before training.

        Where it does, and yet cannot be trained on, it is the training that has diverged.
        """
        trained = self.adapter()
        load_adapter_state(self._body, {name: torch.zeros_like(tensor) for name, tensor in trained.items()})
        try:
            hidden, mask = self._join([arrival])
            self._body.eval()
            hidden.requires_grad_()
            if arrival.labels:
                losses, _, _ = losses_through(self._body, hidden, mask, self._join_labels([arrival]))
                torch.autograd.backward(losses.mean())
                return _is_finite(losses) and _is_finite(hidden.grad)
            out = self._body(hidden, mask)
            at_tail = None if gradient is None else gradient[0]
            if at_tail is not None:  # else there is no more to look at than what comes out
                torch.autograd.backward(out, at_tail.to_padded(mask.cpu()).to(out))
            return _is_finite(out[mask.bool()]) and _is_finite(hidden.grad)
        finally:
            load_adapter_state(self._body, trained)
            self._optimizer.forget()

    def _check(self, what: str, values: torch.Tensor | None) -> None:
        if not _is_finite(values):
            self._optimizer.forget()
            raise NonFiniteError(f"{what} of a step of the body is not finite; {DIVERGED}")

    def _gradient(self, passage: Passage, client: str, scale: float) -> Ragged | None:
        """A client's rows of the gradient at the cut, times `scale`: from the step's mean to that over its own."""
        if passage.hidden.grad is None:
            return None
        rows = passage.rows[client]
        gradient = Ragged.from_padded(passage.hidden.grad[rows], passage.mask[rows])
        return gradient if scale == 1 else Ragged(gradient.values * scale, gradient.lengths)

    @torch.no_grad()
    def evaluate(self, arrival: Arrival) -> StepResult:
        """Loss in nats summed over the labels of a held-out batch, their number, and how many were right."""
        hidden, mask = self._join([arrival])
        self._body.eval()
        losses, _, correct = losses_through(self._body, hidden, mask, self._join_labels([arrival]))
        return StepResult(None, float(losses.double().sum()), len(losses), int(correct.sum()))

    @torch.no_grad()
    def pass_held_out(self, arrival: Arrival) -> Ragged:
        """What a client's tail gets of a held-out batch, in the U-shape; NonFiniteError where it cannot be sent."""
        hidden, mask = self._join([arrival])
        self._body.eval()
        out = Ragged.from_padded(self._body(hidden, mask), mask)
        self._check("what comes out", out.values)
        return out

    def _join(self, arrivals: list[Arrival]) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.cat([arrival.decoded.batch.lengths for arrival in arrivals])
        values = torch.cat([arrival.decoded.batch.values for arrival in arrivals])
        num_tokens = int(lengths.max())
        mask = (torch.arange(num_tokens) < lengths[:, None]).to(torch.int64)
        hidden = Ragged(values, lengths).to_padded(mask).to(self._device, self._dtype)
        return hidden, mask.to(self._device)

    def _join_labels(self, arrivals: list[Arrival]) -> torch.Tensor:
        rows = [row for arrival in arrivals for row in arrival.labels]
        labels = torch.full((len(rows), max(map(len, rows))), IGNORED)
        for index, row in enumerate(rows):
            labels[index, : len(row)] = torch.from_numpy(row)
        return labels.to(self._device)

    def adapter(self) -> dict[str, torch.Tensor]:
        """The body's adapter."""
        return adapter_state(self._body)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        adapter = {f"adapter.{name}": tensor for name, tensor in self.adapter().items()}
        return adapter | {f"optimizer.{name}": tensor for name, tensor in self._optimizer.state().items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""
        sections = sections_of(state)
        load_adapter_state(self._body, sections["adapter"])
        self._optimizer.load_state(sections["optimizer"])
