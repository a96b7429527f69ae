"""AdamW on one party's trainable tensors, with a learning rate that depends on the progress of the run alone."""

import math
from collections.abc import Iterable, Mapping

import torch

from splitcom.config import TrainingConfig
from splitcom.errors import NonFiniteError

DIVERGED = "training has diverged: lower training.lr, or set training.clip_norm"
_SCALAR, _MOMENTS = "step", ("exp_avg", "exp_avg_sq")
_ANCHOR = "anchor"


def learning_rate(config: TrainingConfig, progress: float) -> float:
    """The learning rate at `progress` in (0, 1), above 0 there: linear warm-up, then the schedule.

    Progress instead of a count of steps: parties with fewer batches still end at the same rate, and there is no
    state to resume.
    """
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    rest = (progress - config.warmup) / (1 - config.warmup)
    match config.schedule:
        case "constant":
            return config.lr
        case "linear":
            return config.lr * (1 - rest)
        case "cosine":
            return config.lr * 0.5 * (1 + math.cos(math.pi * rest))


class Optimizer:
    """One party's optimizer; the order of `parameters` names them in a checkpoint.

    With `proximal` (mu) above 0 it minimises the loss plus `mu / 2 * norm(x - x_0) ** 2`; `x_0` is where the round
    began: FedProx, Li et al. 2020, "Federated Optimization in Heterogeneous Networks" (1812.06127), equation 2.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], config: TrainingConfig, proximal: float = 0.0
    ) -> None:
        self.parameters = list(parameters)
        self._config = config
        self._proximal = proximal
        self._anchors: list[torch.Tensor] = []  # x_0
        self._adamw = (
            torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
            if self.parameters
            else None
        )

    def begin_round(self) -> None:
        """What is there now is what the proximal term draws back to."""
        if self._proximal:
            self._anchors = [parameter.detach().clone() for parameter in self.parameters]

    def step(self, progress: float) -> None:
        """Clip the gradients, take a step at the rate for `progress`, forget the gradients.

        Raises NonFiniteError, and changes nothing, where they are not finite.
        """
        if self._adamw is None:
            return
        for parameter, anchor in zip(self.parameters, self._anchors, strict=False):  # there may be none
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self._proximal)
        limit = math.inf if self._config.clip_norm is None else self._config.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if not norm.isfinite():
            self.forget()
            raise NonFiniteError(f"the norm of the gradients is {norm.item()}; {DIVERGED}")
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(self._config, progress)
        self._adamw.step()
        self.forget()

    def forget(self) -> None:
        """Take no step with the present gradients."""
        if self._adamw is not None:
            self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """The moments by name, for a checkpoint, and what the proximal term draws to; empty before the first step."""
        if self._adamw is None:
            return {}
        anchors = {f"{index}.{_ANCHOR}": anchor for index, anchor in enumerate(self._anchors)}
        return anchors | {
            f"{index}.{key}": self._adamw.state[parameter][key]
            for index, parameter in enumerate(self.parameters)
            if parameter in self._adamw.state
            for key in (_SCALAR, *_MOMENTS)
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint; what has been learnt since then is forgotten."""
        if self._adamw is None:
            return
        self._adamw.state.clear()
        anchors: dict[int, torch.Tensor] = {}
        for name, tensor in state.items():
            index, key = name.split(".")
            parameter = self.parameters[int(index)]
            if key == _ANCHOR:
                anchors[int(index)] = tensor.to(parameter, copy=True)
                continue
            device = "cpu" if key == _SCALAR else parameter.device
            self._adamw.state[parameter][key] = tensor.to(device, copy=True)
        self._anchors = [anchors[index] for index in sorted(anchors)]
