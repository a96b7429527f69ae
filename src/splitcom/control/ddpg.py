"""A threshold that an agent learns to choose: deep deterministic policy gradient (SplitCom, arXiv 2602.10564).

The paper's notes say that the reward weighs loss and bytes; state, action and sizes are ours, docs/controllers.md has
the experiment behind them. One transition lasts from an evaluation of the held-out loss to the next.
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import log

import numpy as np
import torch

from splitcom.control.agent import Agent, Floats
from splitcom.control.controller import Controller, Feedback, register
from splitcom.control.decision import Decision
from splitcom.language import ArgumentError
from splitcom.seeds import derive_seed
from splitcom.state import State

_GOLDEN = (5**0.5 - 1) / 2  # whose multiples, modulo 1, fill the unit interval evenly


@register
@dataclass(eq=False)
class Ddpg(Controller):
    """Learns from transition to transition, and from run to run where one starts from another's agent.

        observation   loss / initial loss, log of its fall, bytes / uncompressed bytes, skip ratio, threshold, progress
        action        the threshold, linear from `low` to `high`
        reward        percent by which the loss has fallen (100 log) - price * bytes / uncompressed bytes

    The sum of rewards of a run is 100 log(initial loss / last loss), less the price of all that was sent.

    Args:
        low: lowest threshold.
        high: highest threshold.
        price: percent of loss that it is worth to send nothing in place of everything, for one evaluation.
        warmup: transitions with thresholds spread evenly over the range, before the actor is asked.
        noise: standard deviation of what is then added to its action; half the range is 1.
        half_life: transitions after which the noise is half of that.
        discount: of a reward one transition later.
        updates: of the networks, per transition.
    """

    name = "ddpg"
    example = "ddpg(0.9, 0.999)"

    low: float
    high: float
    price: float = 0.2
    warmup: int = 6
    noise: float = 0.3
    half_life: float = 10.0
    discount: float = 0.9
    updates: int = 20
    _action: float = field(default=0.0, init=False)
    _observation: Floats | None = field(default=None, init=False)
    _initial_loss: float = field(default=0.0, init=False)
    _loss: float = field(default=0.0, init=False)
    _traffic: list[int] = field(default_factory=lambda: [0, 0], init=False)

    def __post_init__(self) -> None:
        for argument, is_right, expected in (
            ("high", self.low < self.high, f"must be above low, {self.low:g}"),
            ("price", self.price >= 0, "must be at least 0"),
            ("warmup", self.warmup >= 0, "must be at least 0"),
            ("noise", self.noise >= 0, "must be at least 0"),
            ("half_life", self.half_life > 0, "must be above 0"),
            ("discount", 0 <= self.discount < 1, "must be at least 0 and below 1"),
            ("updates", self.updates > 0, "must be above 0"),
        ):
            if not is_right:
                raise ArgumentError(argument, f"{expected}, not {getattr(self, argument):g}")
        self._action = self._explored()

    def decide(self) -> Decision:
        """The present action."""
        return self._set(self.low + (self.high - self.low) * (self._action + 1) / 2)

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the range of actions."""
        return self.low, self.high

    def prepare(self) -> None:
        """Build the agent; raises ConfigError if stable-baselines3 is not installed."""
        _ = self._agent.ddpg

    def observe(self, feedback: Feedback) -> None:
        """Learn from what the present action has brought, and choose the next."""
        if feedback.round == 0:
            self._observation, self._traffic = None, [0, 0]
        self._traffic[0] += feedback.sent_bytes
        self._traffic[1] += feedback.uncompressed_bytes
        if feedback.held_out_loss is None:
            return
        loss = max(feedback.held_out_loss, 1e-6)
        if self._observation is None:
            self._initial_loss = self._loss = loss
        fraction = self._traffic[0] / max(self._traffic[1], 1)
        fall = 100 * log(self._loss / loss)
        observation = np.array(
            [
                loss / self._initial_loss,
                fall / 10,
                fraction,
                feedback.skip_ratio,
                self._action,
                feedback.progress,
            ],
            np.float32,
        )
        if self._observation is not None:
            self._agent.learn(
                self._observation,
                self._action,
                fall - self.price * fraction,
                observation,
                is_last=feedback.progress >= 1,
            )
        self._observation, self._loss, self._traffic = observation, loss, [0, 0]
        self._action = self._choose(observation)

    def _choose(self, observation: Floats) -> float:
        late = self._agent.num_transitions - self.warmup
        if late < 0:
            return self._explored()
        draw = np.random.default_rng(derive_seed(self.seed, "noise", late)).standard_normal()
        action = self._agent.act(observation) + self.noise * 0.5 ** (late / self.half_life) * draw
        return float(np.clip(action, -1.0, 1.0))

    def _explored(self) -> float:
        offset = derive_seed(self.seed, "exploration") / 2**63
        return 2 * ((offset + _GOLDEN * self._agent.num_transitions) % 1) - 1

    @cached_property
    def _agent(self) -> Agent:
        return Agent(6, seed=self.seed, discount=self.discount, num_updates=self.updates)

    @property
    def _learned_with(self) -> list[float]:
        """What actions and rewards mean."""
        return [self.low, self.high, self.price]

    def state(self) -> State:
        """The agent, and where it stands in the run."""
        tensors = {f"agent.{name}": tensor for name, tensor in self._agent.state().items()}
        if self._observation is not None:
            tensors["observation"] = torch.from_numpy(self._observation.copy())
        scalars = {
            "learned_with": self._learned_with,
            "action": self._action,
            "initial_loss": self._initial_loss,
            "loss": self._loss,
            "traffic": list(self._traffic),
        }
        return State(tensors, scalars)

    def load_state(self, state: State) -> None:
        """Go on from there."""
        tensors, scalars = dict(state.tensors), state.scalars
        if scalars["learned_with"] != self._learned_with:
            known = ", ".join(f"{value:g}" for value in scalars["learned_with"])
            raise ValueError(f"the agent has learned with low, high and price of {known}; give it the same")
        observation = tensors.pop("observation", None)
        self._observation = None if observation is None else observation.numpy().copy()
        self._agent.load_state({name.removeprefix("agent."): tensor for name, tensor in tensors.items()})
        self._action, self._initial_loss = float(scalars["action"]), float(scalars["initial_loss"])
        self._loss, self._traffic = float(scalars["loss"]), list(map(int, scalars["traffic"]))
