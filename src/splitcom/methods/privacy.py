"""What a run's noise is worth, as result.json says it: epsilon, for whom, of what, and what is not covered."""

from typing import Any

from splitcom.aggregation import DpFedAvg
from splitcom.aggregation import parse as parse_aggregator
from splitcom.config import Config
from splitcom.privacy import Gaussian, check_accountant, epsilon, parse, parse_response
from splitcom.privacy.masks import check_masks
from splitcom.server.rounds import Federation


def check_privacy(config: Config) -> None:
    """Raise MissingExtraError if a run asks for noise whose worth could not be told."""
    if config.client.privacy is not None or _of_adapters(config) is not None:
        check_accountant()
    if config.federation.secure_aggregation is not None:
        check_masks()


def privacy_of(federation: Federation) -> dict[str, Any]:
    """The entry `privacy` of result.json; none if there is no noise."""
    config, states = federation.config, federation.states.values()
    found = {}
    if config.client.privacy is not None:
        released = max((state.num_released for state in states), default=0)
        found["activations"] = _activations(parse(config.client.privacy), config, released)
    if config.client.label_noise is not None:
        found["labels"] = _labels(config)
    if (aggregator := _of_adapters(config)) is not None:
        merged = max(federation.round - config.resting_rounds, 0)  # rounds, each of which did so once
        repeated = max(federation.merges.read() - merged, 0)
        ended = federation.participation.most_rounds + repeated
        releases = max([ended, *(state.num_updates for state in states)])
        found["adapters"] = _adapters(aggregator, config, releases)
    return {"privacy": found} if found else {}


def privacy_warnings(config: Config) -> list[str]:
    """What there is to be warned of in what noise does not cover."""
    found = []
    if config.client.privacy is not None:
        found.append(
            f"client.privacy: epsilon is of hidden states{' and gradients' if config.model.tail_blocks else ''} alone; "
            f"beside them the server gets {', '.join(_beside_activations(config))}"
        )
        found += _of_seed("client.privacy", config.client.privacy, parse(config.client.privacy).seed)
    if config.client.label_noise is not None:
        found.append(
            "client.label_noise: epsilon is of what labels of training tell beside the text; the server also gets "
            f"{', '.join(_beside_labels(config))}"
        )
        found += _of_seed(
            "client.label_noise", config.client.label_noise, parse_response(config.client.label_noise).seed
        )
    if (aggregator := _of_adapters(config)) is not None:
        if config.training.split:
            found.append(
                "federation.aggregator: epsilon is of the adapter that clients share alone; the body learns from their "
                "hidden states without noise of this kind"
            )
        found += _of_seed("federation.aggregator", config.federation.aggregator, aggregator.seed)
    return found


def _activations(mechanism: Gaussian, config: Config, num_released: int) -> dict[str, Any]:
    def worth(releases: int, unit: str) -> dict[str, Any]:
        return _worth(mechanism.multiplier, releases, mechanism.delta, mechanism.seed) | {"unit": unit}

    return {
        "mechanism": str(mechanism),
        "towards": "the server, and whoever sees what it gets",
        "vector": worth(
            1,
            "the hidden state of one token at one visit, against any other: what that vector alone tells. Those behind "
            "it in the text depend on the same token",
        ),
        "sample": worth(
            num_released,
            "all tokens of one sample, against any other of its length, over all visits of this run with all their "
            "vectors: references and repeats compose",
        ),
        "not_covered": _beside_activations(config),
    }


def _labels(config: Config) -> dict[str, Any]:
    response, classes = parse_response(config.client.label_noise or ""), config.data.classes or ()
    return {
        "mechanism": str(response),
        "unit": "the label of one sample, against any other class, over this run and whatever is made of it: it is "
        "drawn once, and again only by a client that has lost its folder, or in another run",
        "towards": "everybody",
        "epsilon": response.epsilon if response.seed < 0 else None,
        "delta": 0.0,
        "kept": response.kept(len(classes)),
        "not_covered": _beside_labels(config),
    }


def _adapters(aggregator: DpFedAvg, config: Config, releases: int) -> dict[str, Any]:
    at_clients, num_clients = aggregator.where == "clients", config.federation.min_clients
    others = _worth(aggregator.noise, releases, aggregator.delta, aggregator.seed)
    alone = _worth(aggregator.noise / num_clients**0.5, releases, aggregator.delta, aggregator.seed)
    towards_server = (
        alone if config.federation.secure_aggregation is None else others
    )  # the sum is all it sees
    return {
        "mechanism": str(aggregator),
        "unit": "all data of one client over this run, with it or with updates of zero in its place: whatever it has "
        "changed of the shared adapter",
        "towards_others": others,
        "towards_the_server": towards_server
        if at_clients
        else {"epsilon": None, "delta": None, "releases": releases},
        "not_covered": _beside_adapters(config),
    }


def _worth(multiplier: float, releases: int, delta: float, seed: int) -> dict[str, Any]:
    """None for epsilon if whoever knows the settings can draw the noise again."""
    value = epsilon(multiplier, releases, delta) if seed < 0 else None
    return {"epsilon": value, "delta": delta, "releases": releases}


def _beside_activations(config: Config) -> list[str]:
    """What the server gets of a sample beside what is noised."""
    found = ["lengths of samples and of what is learnt of them"]
    if not config.model.tail_blocks:
        classes = (
            "the classes"
            if config.client.label_noise is None
            else f"classes under {config.client.label_noise}"
        )
        found.append(f"labels, which are the learnt tokens or {classes}")
    else:
        found.append("sums of losses, of a round and of an evaluation")
    if config.model.tail_blocks or config.lora.front_learns:
        found.append("the adapter that a client has trained on its samples")
    return found


def _beside_labels(config: Config) -> list[str]:
    """What the server gets by which a class can be told, beside a label under noise."""
    found = []
    if config.training.split:
        found.append("hidden states, from which the text can be read, and its class by whoever reads it")
        if not config.model.tail_blocks:
            found.append("labels of held-out samples, as they are")
    return [*found, "what the held-out samples come to in evaluations"]


def _beside_adapters(config: Config) -> list[str]:
    """What others get of a client's data beside the shared adapter."""
    found = ["how many samples and labels it has, and losses"]
    if config.training.split:
        found += [
            "what crosses the cuts, which the server sees",
            "the body's adapter, which learns from that",
        ]
    return found


def _of_adapters(config: Config) -> DpFedAvg | None:
    aggregator = parse_aggregator(config.federation.aggregator)
    return aggregator if isinstance(aggregator, DpFedAvg) else None


def _of_seed(setting: str, text: str, seed: int) -> list[str]:
    return [f"{setting} = {text!r}: whoever knows the seed can take the noise off; leave it out"] * (
        seed >= 0
    )
