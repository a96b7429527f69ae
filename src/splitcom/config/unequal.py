"""What must hold for clients to have cuts or ranks of their own."""

from typing import TYPE_CHECKING

from splitcom.aggregation import DpFedAvg
from splitcom.aggregation import parse as parse_aggregator

if TYPE_CHECKING:
    from splitcom.config.config import Config


def check_unequal(config: "Config") -> None:
    """Raise ValueError if clients have cuts or ranks of their own that do not go with the rest."""
    for name in config.known_clients if config.clients.given else ():
        own = config.clients.of(name)
        most = config.federation.cuts.most
        if own.most_cut is not None and most is not None and own.most_cut > most:
            raise ValueError(
                f"clients: {name} has most_cut = {own.most_cut}, which is more than federation.cuts.most = "
                f"{most}; raise that, or lower this"
            )
        rank = own.rank
        if rank is not None and rank > config.lora.rank:
            raise ValueError(
                f"clients: {name} has rank = {rank}, which is more than lora.rank = {config.lora.rank}, that of "
                "the adapter all share; raise that, or lower this"
            )
    if config.lora.cut_rank is not None and config.lora.cut_rank > config.lora.rank:
        raise ValueError(
            f"lora.cut_rank = {config.lora.cut_rank} is more than lora.rank = {config.lora.rank}; lower it"
        )
    if config.federation.cuts.every is not None and config.client.mixing is not None:
        raise ValueError(
            f"client.mixing = {config.client.mixing:g}: with federation.cuts.every = {config.federation.cuts.every} "
            "what a client made in its last round may be of other blocks; leave one of them out"
        )
    what = "cuts" if len(config.cuts) > 1 else "ranks" if len(config.ranks) > 1 else None
    if what is None:
        return
    reason = _of_parts(config, what) or (_of_cuts(config) if what == "cuts" else None) or _of_ranks(config)
    if reason is not None:
        raise ValueError(reason)


def _of_parts(config: "Config", what: str) -> str | None:
    """Why clients that hold different parts of the adapter cannot be, if they cannot."""
    federation = config.federation
    held = f"clients with {what} of their own hold different parts of the adapter"
    if federation.secure_aggregation is not None:
        return (
            f"federation.secure_aggregation = {federation.secure_aggregation:g}: {held}, and masks add up whole ones "
            "alone; leave one of them out"
        )
    if federation.segments > 1:
        return (
            f"federation.segments = {federation.segments}: {held}, and segments are of the same one; set "
            "segments = 1"
        )
    if federation.variance.estimate is not None:
        return (
            f"federation.variance.estimate = {federation.variance.estimate!r}: {held}, and the variance is of whole "
            "ones; leave it out"
        )
    aggregator = parse_aggregator(federation.aggregator)
    if aggregator.name in ("krum", "multi_krum", "fedex") or isinstance(aggregator, DpFedAvg):
        return (
            f"federation.aggregator = {federation.aggregator!r}: {held}, and it looks at whole updates; take "
            "one that goes by single tensors, such as median or fedavg"
        )
    if config.client.own_b:
        return f"client.own_b = true: {held}, of which no B is shared; leave it out, or give all the same"
    if not federation.waits_for_all:
        return (
            f"{held}, and what nobody else has trained of a round counts in the mean of that round: leave out "
            "federation.deadline_s, over_select and scheduling = 'asynchronous'"
        )
    return None


def _of_cuts(config: "Config") -> str | None:
    """Why blocks cannot be at the server for some clients and in the fronts of others."""
    if not config.training.split:
        return "clients: with training.split = false nothing is cut; leave out their cuts"
    if config.model.bottleneck is not None:
        return (
            f"model.bottleneck = {config.model.bottleneck:g}: it is learnt at one cut, which all clients share; leave "
            "it out, or give all the same cut"
        )
    if config.engine.kind == "sharded":
        return (
            "engine.kind = 'sharded': its processes run every block together, and batches with cuts of their own pass "
            "different blocks; take 'local' or 'placed', or one cut for all"
        )
    return None


def _of_ranks(config: "Config") -> str | None:
    if len(config.ranks) > 1 and config.lora.use_dora:
        return (
            "lora.use_dora = true: the sizes that it learns are of weights with the whole update, of which clients "
            "with ranks of their own have a part; give all the same rank"
        )
    return None
