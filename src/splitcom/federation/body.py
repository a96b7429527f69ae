"""What the server does with the batches of one step: body forward, loss, body backward, gradients back to the cut."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.federation.loss import token_losses
from splitcom.federation.optimize import Optimizer
from splitcom.federation.store import sections_of
from splitcom.models import Body, adapter_state, load_adapter_state
from splitcom.protocol.labels import IGNORED, Labels
from splitcom.seeds import derive_seed


@dataclass(frozen=True)
class Arrival:
    """One client's batch as the server has decoded it."""

    decoded: Decoded
    labels: list[Labels]


@dataclass(frozen=True)
class StepResult:
    """For one client: the gradient of its own mean loss at the cut, and its loss in nats over `num_labels`.

    The gradient is None where the front is frozen and needs none.
    """

    gradient: Ragged | None
    loss_sum: float
    num_labels: int


class BodyTrainer:
    """The body, its adapter and its optimizer."""

    def __init__(self, body: Body, config: Config) -> None:
        self._body = body
        self._config = config
        self._device = next(body.parameters()).device
        self._dtype = next(body.parameters()).dtype
        self._optimizer = Optimizer((p for p in body.parameters() if p.requires_grad), config.training)
        shape = body.model.config.get_text_config()
        self._hidden_size, self._vocab_size = shape.hidden_size, shape.vocab_size
        batch_size = max(config.training.batch_size, config.evaluation.batch_size)
        self.max_batch_bytes = batch_size * config.data.max_tokens * self._hidden_size * 4

    def admit(self, decoded: Decoded, labels: Mapping[int, Labels]) -> Arrival:
        """Join a client's batch with its labels; raises RemoteProtocolError where they do not fit this model."""
        batch = decoded.batch
        if batch.hidden != self._hidden_size:
            raise RemoteProtocolError(
                f"an activation of width {batch.hidden}; the model's is {self._hidden_size}"
            )
        if missing := [sample for sample in decoded.ids if sample not in labels]:
            raise RemoteProtocolError(f"no labels for sample ids {missing}")
        rows = [labels[sample] for sample in decoded.ids]
        for length, row in zip(batch.lengths.tolist(), rows, strict=True):
            if len(row) != length or length < 2 or length > self._config.data.max_tokens:
                raise RemoteProtocolError(f"{len(row)} labels for an activation of {length} tokens")
            if int(row.max()) >= self._vocab_size:
                raise RemoteProtocolError(
                    f"a label of {int(row.max())}; the vocabulary has {self._vocab_size}"
                )
        return Arrival(decoded, rows)

    def step(
        self, arrivals: Mapping[str, Arrival], position: tuple[int, int], progress: float
    ) -> dict[str, StepResult]:
        """One optimisation step on the batches of all clients together.

            client a ─┐                                    ┌─► gradient a
            client b ─┼─► hidden [B, T, D] ─► body ─► loss ┼─► gradient b
            client c ─┘                          └─ AdamW  └─► gradient c

        The body learns from the mean over all labelled tokens; each client gets the gradient of the mean over its
        own, as if it were alone, so that its step does not shrink with the number of clients.
        """
        hidden, mask, labels = self._join(list(arrivals.values()))
        hidden.requires_grad_(self._config.lora.train_front)
        torch.manual_seed(derive_seed(self._config.seed, "server", *position))  # dropout
        self._body.train()
        losses, rows = token_losses(self._body(hidden, mask), labels)
        torch.autograd.backward(losses.mean())
        self._optimizer.step(progress)

        losses = losses.detach()
        results = {}
        first = 0
        for client, arrival in arrivals.items():
            last = first + len(arrival.labels)
            own = losses[(first <= rows) & (rows < last)]
            gradient = None
            if hidden.grad is not None:
                gradient = Ragged.from_padded(hidden.grad[first:last], mask[first:last])
                if len(arrivals) > 1:
                    gradient = Ragged(gradient.values * (len(losses) / max(len(own), 1)), gradient.lengths)
            results[client] = StepResult(gradient, float(own.sum()), len(own))
            first = last
        return results

    @torch.no_grad()
    def evaluate(self, arrival: Arrival) -> tuple[float, int]:
        """Loss in nats summed over the labelled tokens of a held-out batch, and their number."""
        hidden, mask, labels = self._join([arrival])
        self._body.eval()
        losses, _ = token_losses(self._body(hidden, mask), labels)
        return float(losses.double().sum()), len(losses)

    def _join(self, arrivals: list[Arrival]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        lengths = torch.cat([arrival.decoded.batch.lengths for arrival in arrivals])
        values = torch.cat([arrival.decoded.batch.values for arrival in arrivals])
        num_tokens = int(lengths.max())
        mask = (torch.arange(num_tokens) < lengths[:, None]).to(torch.int64)
        labels = torch.full((len(lengths), num_tokens), IGNORED)
        rows = [row for arrival in arrivals for row in arrival.labels]
        for index, row in enumerate(rows):
            labels[index, : len(row)] = torch.from_numpy(row)
        hidden = Ragged(values, lengths).to_padded(mask).to(self._device, self._dtype)
        return hidden, mask.to(self._device), labels.to(self._device)

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
