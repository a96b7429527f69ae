"""What a step would send, from a model's shape alone."""

from splitcom.codecs import uncompressed_size
from splitcom.config import Config
from splitcom.flows import FLOWS, cut_flows
from splitcom.transports.link import Link


def bytes_of_step(hidden_size: int, batch_size: int, num_tokens: int, tail_blocks: int = 0) -> dict[str, int]:
    """Bytes of each flow at the cut for one fp16 step of one client, headers included.

    >>> bytes_of_step(768, batch_size=8, num_tokens=512)
    {'activation_up': 6291490, 'gradient_down': 6291490}
    """
    size = uncompressed_size(range(batch_size), [num_tokens] * batch_size, hidden_size)
    return dict.fromkeys(cut_flows(has_tail=bool(tail_blocks)), size)


def bytes_of_evaluation(hidden_size: int, batch_size: int, num_tokens: int, tail_blocks: int = 0) -> int:
    """Bytes of an fp16 evaluation of one batch of held-out samples: activations, in the U-shape there and back.

    >>> bytes_of_evaluation(768, batch_size=8, num_tokens=512)
    6291490
    """
    size = uncompressed_size(range(batch_size), [num_tokens] * batch_size, hidden_size)
    return size * (2 if tail_blocks else 1)


def clients_of(config: Config) -> dict[str, dict[str, object]]:
    """What each client trains with.

    >>> config = Config().override({"federation.clients": 1, "clients.client-0.batch_size": 2})
    >>> clients_of(config)
    {'client-0': {'cut': 2, 'rank': 8, 'batch': 2, 'device': 'auto'}}
    """
    names = config.federation.names or config.client_names
    own = {name: config.of_client(name) for name in names}
    return {
        name: {
            "cut": of.model.cut,
            "rank": of.lora.rank,
            "batch": of.training.batch_size,
            "device": of.model.device,
        }
        for name, of in own.items()
    }


def seconds_of_step(flows: dict[str, int], link: str) -> dict[str, float]:
    """Seconds of each flow over a link such as "10/40".

    >>> seconds_of_step({"activation_up": 5_000_000, "gradient_down": 5_000_000}, "10/40")
    {'activation_up': 4.0, 'gradient_down': 1.0}
    """
    rates = Link.parse(link)
    return {
        flow: rates.seconds(size, 0) if FLOWS[flow].direction == "up" else rates.seconds(0, size)
        for flow, size in flows.items()
    }
