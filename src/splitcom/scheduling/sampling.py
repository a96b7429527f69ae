"""Which clients take part in a round."""

import math
import random
from collections.abc import Sequence

from splitcom.seeds import derive_seed


def sample_clients(
    clients: Sequence[str], number: int, seed: int, round_index: int, over_select: float = 0.0
) -> list[str]:
    """Draw that many clients without replacement, in the order of `clients`; the same for the same arguments.

    `number` is a part of all clients of the run, whoever is there: if fewer are, all of them are drawn. `over_select`
    adds that part of the number, rounded up, as far as there are clients.

    >>> sample_clients(["a", "b", "c", "d"], 2, seed=0, round_index=1)
    ['b', 'd']
    """
    count = min(math.ceil(number * (1 + over_select) - 1e-9), len(clients))
    chosen = random.Random(derive_seed(seed, "clients", round_index)).sample(range(len(clients)), count)
    return [clients[index] for index in sorted(chosen)]
