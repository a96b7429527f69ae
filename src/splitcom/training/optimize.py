"""The optimizer of one party's trainable tensors, with a learning rate that depends on the run's progress alone."""

import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec

import torch

from splitcom.config import TrainingConfig
from splitcom.errors import ConfigError, NonFiniteError

DIVERGED = "training has diverged: lower training.lr, or set training.clip_norm"
_NUMBERS = {"int": int, "float": float}
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


def check_optimizer(name: str) -> None:
    """Raise ConfigError if an optimizer's library is not installed, or there is no device that it runs on."""
    if name != "adamw8bit":
        return
    reason = "bitsandbytes is not installed: pip install 'splitcom[quant]'"
    if find_spec("bitsandbytes") is not None:
        reason = "it runs on CUDA alone, and there is no such device"
        if torch.cuda.is_available():
            return
    raise ConfigError(f"training.optimizer = {name!r}: {reason}; or take 'adafactor', which remembers least")


def _made(parameters: list[torch.nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    lr, decay = config.lr, config.weight_decay
    match config.optimizer:
        case "adamw" | "adamw_fused":
            fused = True if config.optimizer == "adamw_fused" else None
            made: torch.optim.Optimizer = torch.optim.AdamW(
                parameters, lr=lr, weight_decay=decay, fused=fused
            )
        case "adafactor":  # as with AdamW the rate is that of the schedule
            from transformers.optimization import Adafactor

            options = {"lr": lr, "weight_decay": decay, "scale_parameter": False, "relative_step": False}
            made = Adafactor(parameters, **options)
        case "adamw8bit":
            check_optimizer(config.optimizer)
            from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found, unused-ignore]

            made = AdamW8bit(parameters, lr=lr, weight_decay=decay)
    return made


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
        self._inner = _made(self.parameters, config) if self.parameters else None

    def begin_round(self) -> None:
        """What is there now is what the proximal term draws back to."""
        if self._proximal:
            self._anchors = [parameter.detach().clone() for parameter in self.parameters]

    def step(self, progress: float) -> None:
        """Clip the gradients, take a step at the rate for `progress`, forget the gradients.

        Raises NonFiniteError, and changes nothing, if they are not finite.
        """
        if self._inner is None:
            return
        for parameter, anchor in zip(self.parameters, self._anchors, strict=False):  # there may be none
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self._proximal)
        limit = math.inf if self._config.clip_norm is None else self._config.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if not norm.isfinite():
            self.forget()
            raise NonFiniteError(f"the norm of the gradients is {norm.item()}; {DIVERGED}")
        for group in self._inner.param_groups:
            group["lr"] = learning_rate(self._config, progress)
        self._inner.step()
        self.forget()

    def forget(self) -> None:
        """Take no step with the present gradients."""
        if self._inner is not None:
            self._inner.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """What it remembers by name, for a checkpoint, and what the proximal term draws to; before any step nothing."""
        if self._inner is None:
            return {}
        found = {f"{index}.{_ANCHOR}": anchor for index, anchor in enumerate(self._anchors)}
        for index, parameter in enumerate(self.parameters):
            for key, value in self._inner.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    found[f"{index}.{key}"] = value
                else:
                    found[f"{index}.{key}.{type(value).__name__}"] = torch.tensor(value, dtype=torch.float64)
        return found

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint; what has been learnt since then is forgotten."""
        if self._inner is None:
            return
        self._inner.state.clear()
        anchors: dict[int, torch.Tensor] = {}
        for name, tensor in state.items():
            index, key, *number = name.split(".")
            parameter = self.parameters[int(index)]
            if key == _ANCHOR:
                anchors[int(index)] = tensor.to(parameter, copy=True)
            elif number:
                self._inner.state[parameter][key] = _NUMBERS[number[0]](tensor)
            else:  # torch's AdamW counts its steps on the CPU
                device = "cpu" if key == "step" and self._config.optimizer == "adamw" else parameter.device
                self._inner.state[parameter][key] = tensor.to(device, copy=True)
        self._anchors = [anchors[index] for index in sorted(anchors)]
