"""A DDPG agent of stable-baselines3 that is told transitions one by one; knows no threshold and no loss.

The library draws from the global generators of torch and numpy. Here it gets them seeded for each use, and they are put
back after: what the agent learns depends on its seed and its transitions alone, it has no random state to keep, and
training draws what it would have drawn without it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitcom.errors import ConfigError
from splitcom.seeds import derive_seed

if TYPE_CHECKING:
    from stable_baselines3 import DDPG

Floats = npt.NDArray[np.float32]

_CAPACITY = 10_000  # transitions; a run gives one for each evaluation
_LAYERS = [64, 64]
_RATE = 1e-3
_TAU = 0.02  # of the library's soft update of the targets, which expects more updates than a run has rounds
_REPLAYED = ("observations", "actions", "rewards", "next_observations", "dones")


class Agent:
    """Maps an observation, fp32 `[size]`, to an action in [-1, 1]."""

    def __init__(self, size: int, *, seed: int, discount: float, num_updates: int) -> None:
        self._size = size
        self._seed = seed
        self._discount = discount
        self._num_updates = num_updates
        self.num_transitions = 0

    def act(self, observation: Floats) -> float:
        """What the actor takes to be best."""
        action, _ = self.ddpg.predict(observation, deterministic=True)
        return float(action[0])

    def learn(
        self, observation: Floats, action: float, reward: float, next_observation: Floats, *, is_last: bool
    ) -> None:
        """Add a transition to the replay buffer, and update the networks from a batch of it, `num_updates` times."""
        self._add(observation, action, reward, next_observation, is_last)
        self.num_transitions += 1
        with _seeded(derive_seed(self._seed, "updates", self.num_transitions)):
            self.ddpg.train(self._num_updates, batch_size=64)

    def _add(
        self,
        observation: Floats,
        action: float | Floats,
        reward: float | Floats,
        next_observation: Floats,
        is_last: bool | Floats,
    ) -> None:
        assert self.ddpg.replay_buffer is not None
        self.ddpg.replay_buffer.add(
            observation, next_observation, np.reshape(action, (1, 1)), reward, is_last, [{}]
        )

    @cached_property
    def ddpg(self) -> "DDPG":
        """The library's object; raises ConfigError if the library is not installed."""
        try:
            from gymnasium import Env, spaces
            from stable_baselines3 import DDPG
            from stable_baselines3.common.logger import Logger
        except ImportError as error:
            raise ConfigError(
                f"the ddpg controller needs stable-baselines3 ({error}): pip install 'splitcom[rl]', or choose "
                "another controller, such as bangbang"
            ) from error

        class Spaces(Env):  # type: ignore[misc]
            """Tells the library the shapes; nobody steps it."""

            observation_space = spaces.Box(-np.inf, np.inf, (self._size,), np.float32)
            action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

        with _seeded(derive_seed(self._seed, "networks")):
            ddpg = DDPG(
                "MlpPolicy",
                Spaces(),
                learning_rate=_RATE,
                buffer_size=_CAPACITY,
                tau=_TAU,
                gamma=self._discount,
                policy_kwargs={"net_arch": _LAYERS, "optimizer_kwargs": {"fused": True}},
                device="cpu",
            )
        ddpg.set_logger(Logger(folder=None, output_formats=[]))
        return ddpg

    def state(self) -> dict[str, Tensor]:
        """Networks, target networks, both optimizers' moments, the replay buffer."""
        tensors = {f"policy.{name}": tensor.clone() for name, tensor in self.ddpg.policy.state_dict().items()}
        for part, optimizer in self._optimizers():
            for index, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"{part}.{index}.{name}": tensor.clone() for name, tensor in moments.items()}
        buffer = self.ddpg.replay_buffer
        assert buffer is not None
        for name in _REPLAYED:
            tensors[f"replay.{name}"] = torch.from_numpy(getattr(buffer, name)[: buffer.size(), 0].copy())
        return tensors | {"num_transitions": torch.tensor(self.num_transitions)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.ddpg.policy.load_state_dict(_below("policy", tensors))
        for part, optimizer in self._optimizers():
            moments: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _below(part, tensors).items():
                index, _, moment = name.partition(".")
                moments.setdefault(int(index), {})[moment] = tensor.clone()
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        buffer, replay = self.ddpg.replay_buffer, _below("replay", tensors)
        assert buffer is not None
        buffer.reset()
        for row in range(len(replay["rewards"])):
            self._add(*(replay[name][row].numpy() for name in _REPLAYED))
        self.num_transitions = int(tensors["num_transitions"])
        buffer.pos = self.num_transitions % _CAPACITY

    def _optimizers(self) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        yield "actor", self.ddpg.actor.optimizer
        yield "critic", self.ddpg.critic.optimizer


def _below(section: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{section}."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Have torch's and numpy's global generators begin at `seed`, and put them back."""
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds every GPU too
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
