"""Which clients take part in a round."""

import math
import random
from collections.abc import Sequence

from splitcom.seeds import derive_seed


def sample_clients(
    clients: Sequence[str], fraction: float, seed: int, round_index: int, over_select: float = 0.0
) -> list[str]:
    """At least one client, drawn without replacement, in the order of `clients`; the same for the same arguments.

    `over_select` adds that part of the number, rounded up, as far as there are clients.

    >>> sample_clients(["a", "b", "c", "d"], 0.5, seed=0, round_index=1)
    ['b', 'd']
    """
    count = min(math.ceil(max(1, round(len(clients) * fraction)) * (1 + over_select) - 1e-9), len(clients))
    chosen = random.Random(derive_seed(seed, "clients", round_index)).sample(range(len(clients)), count)
    return [clients[index] for index in sorted(chosen)]
