"""Which clients take part in a round."""

import random
from collections.abc import Sequence

from splitcom.seeds import derive_seed


def sample_clients(clients: Sequence[str], fraction: float, seed: int, round_index: int) -> list[str]:
    """At least one client, drawn without replacement, in the order of `clients`; the same for the same arguments.

    >>> sample_clients(["a", "b", "c", "d"], 0.5, seed=0, round_index=1)
    ['b', 'd']
    """
    count = max(1, round(len(clients) * fraction))
    chosen = random.Random(derive_seed(seed, "clients", round_index)).sample(range(len(clients)), count)
    return [clients[index] for index in sorted(chosen)]
