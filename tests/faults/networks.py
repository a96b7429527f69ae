"""Runs over bad networks, in namespaces: the same bits, the time that the link model predicts, and every byte's use.

    python -m tests.faults.networks --out networks.json [--only "1 Mbit/s up"]

Each client is a namespace behind a shaped link of its own. Latency, resets and black holes come from a TCP proxy
within the client's namespace. The same configuration is run in process on the virtual clock with the same links; both
times are those between the end of round 0 (evaluation before training) and the end of the last one. What the model
knows nothing of, a black hole or resets, is added to its prediction: the silence, or for each new connection a pause
and three round trips, but not what has to be sent again.

Bytes are counted by the kernel at the clients' interfaces, by a sniffer beside it that tells layers apart, and by the
ledger. What a client asks before the run (what it is, how fast the link is, the front's weights) has a connection of
its own and is in none of the run's figures. The model is a tiny one whose activations are sent with many bits, so that
it is the network that takes the time.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from splitcom.config import Config
from splitcom.methods.run import Run, train
from splitcom.transports.grpc import Timeouts

from ..integration.parties import Deployment, Party, fork_server, make_authority
from ..integration.tiny_model import write_tiny_model
from .netns import INTERFACE, Network, entered
from .proxy import Proxy
from .sniffer import Layers, Sniffer, total

PORT = 7001
_RECONNECTING_TRIPS = 3  # TLS, the settings of HTTP/2, and the conversation's open and opened
RUN_S = 600.0  # after which a run is taken to hang
CHANGES: Mapping[str, Any] = {
    "model.device": "cpu",
    "federation.clients": 2,
    "data.samples": 128,
    "data.held_out_samples": 8,
    "training.rounds": 4,
    "training.batch_size": 8,
    "evaluation.generate": 0,
    "evaluation.every": 4,
    "flows.activation_up.codec": "temporal(0.9999) > delta",
    "flows.gradient_down.codec": "none",
}


@dataclass(frozen=True)
class Scenario:
    """A network. Rates are of each client's link, latency is one way; a fault hits every client's."""

    up_mbps: float = 20.0
    down_mbps: float = 20.0
    latency_ms: float = 0.0
    black_hole_s: float = 0.0  # from the middle of the second round
    reset_after_chunks: int | None = None  # pieces of up to 16 KiB, both directions together
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def links(self) -> dict[str, float]:
        return {
            "links.up_mbps": self.up_mbps,
            "links.down_mbps": self.down_mbps,
            "links.latency_ms": self.latency_ms,
        }


SCENARIOS = {
    "1 Mbit/s up": Scenario(up_mbps=1.0),
    "200 ms round trip": Scenario(latency_ms=100.0, changes={"training.batch_size": 4}),
    "30 s black hole": Scenario(up_mbps=4.0, black_hole_s=30.0),
    "a reset every 20 frames": Scenario(latency_ms=20.0, reset_after_chunks=20),
    "a short run": Scenario(changes={"data.samples": 24, "training.rounds": 2, "evaluation.every": 2}),
}


def measure(scenario: Scenario, model: str | Path, folder: Path, forks: Any) -> dict[str, Any]:
    """Run a scenario in process and over its network; raises Unsupported where there can be no namespaces."""
    config = Config().override({**CHANGES, **scenario.changes, **scenario.links, "model.source": str(model)})
    expected = train(config, folder / "in-process")
    with _network(scenario, config) as (network, proxies):
        hosts = [network.server.address]
        authority = make_authority(folder / "authority", config.federation.clients, hosts)
        names = [network.server.name, *(client.name for client in network.clients)]
        (folder / "network").mkdir()
        deployment = Deployment(
            forks, authority, config, folder / "network", port=PORT, host=hosts[0], namespaces=names
        )
        addresses = [f"127.0.0.1:{proxy.address[1]}" for proxy in proxies] or [None] * len(names[1:])
        clients = [deployment.client(index, address=address) for index, address in enumerate(addresses)]
        before = [client.counters() for client in network.clients]
        with _sniffers(network) as sniffers:
            _run(deployment, clients, scenario, proxies)
            after = [client.counters() for client in network.clients]
    result = deployment.assert_same_run(expected)
    num_bytes = sum(
        new.sent_bytes + new.received_bytes - old.sent_bytes - old.received_bytes
        for new, old in zip(after, before, strict=True)
    )
    resets = max((proxy.counts.resets for proxy in proxies), default=0)
    return {
        "same_bits": True,  # or the assertion above had failed
        **_times(expected, deployment, scenario, resets),
        **_bytes(result, num_bytes, sniffers),
        "fronts_bytes": sum(path.stat().st_size for path in folder.rglob("front-*/*")),
    }


@contextmanager
def _network(scenario: Scenario, config: Config) -> Iterator[tuple[Network, list[Proxy]]]:
    with Network(config.federation.clients) as network, ExitStack() as stack:
        proxies = []
        for client in network.clients:
            network.shape(client, up_bps=1e6 * scenario.up_mbps, down_bps=1e6 * scenario.down_mbps)
            if scenario.latency_ms or scenario.black_hole_s or scenario.reset_after_chunks:
                with entered(client.name):
                    proxies.append(stack.enter_context(Proxy((network.server.address, PORT))))
                proxies[-1].latency_s = scenario.latency_ms / 1e3
        yield network, proxies


@contextmanager
def _sniffers(network: Network) -> Iterator[list[Sniffer]]:
    with ExitStack() as stack:
        sniffers = []
        for client in network.clients:
            with entered(client.name):
                sniffers.append(stack.enter_context(Sniffer(INTERFACE)))
        yield sniffers


def _run(deployment: Deployment, clients: list[Party], scenario: Scenario, proxies: list[Proxy]) -> None:
    deployment.start_server()
    for client in clients:
        client.start()
    deployment.server.wait_for("round 0 of", patience_s=RUN_S)
    for proxy in proxies:
        proxy.reset_after_chunks = scenario.reset_after_chunks
    if scenario.black_hole_s:
        started = time.monotonic()
        deployment.server.wait_for("round 1 of", patience_s=RUN_S)
        time.sleep((time.monotonic() - started) / 2)  # a round is about as long as the one before
        for proxy in proxies:
            proxy.black_hole(scenario.black_hole_s)
    for party in (*clients, deployment.server):
        party.end(patience_s=RUN_S)


def _times(expected: Run, deployment: Deployment, scenario: Scenario, resets: int) -> dict[str, float]:
    """Seconds from the end of round 0 to the end of the run."""
    link_s = _seconds(expected.folder)
    reconnecting_s = Timeouts().pause_s / 20 + _RECONNECTING_TRIPS * 2 * scenario.latency_ms / 1e3
    fault_s = scenario.black_hole_s + resets * reconnecting_s
    measured_s = _seconds(deployment.out)
    return {
        "measured_s": measured_s,
        "link_model_s": link_s,
        "fault_s": fault_s,
        "predicted_s": link_s + fault_s,
        "measured_over_predicted": measured_s / (link_s + fault_s),
        "resets": resets,
    }


def _seconds(folder: Path) -> float:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    at = {line["round"]: line["seconds"]["virtual"] for line in lines}
    return float(at[max(at)] - at[0])


def _bytes(result: Mapping[str, Any], interface_bytes: int, sniffers: list[Sniffer]) -> dict[str, Any]:
    """All of the run's bytes at the clients' interfaces by layer, and the ledger's beside them."""
    before = total(sniffer.connections[0] for sniffer in sniffers)
    run = total(layers for sniffer in sniffers for layers in sniffer.connections[1:])
    others = total(sniffer.others for sniffer in sniffers)
    ledger_bytes = result["bytes"]["total"] + result["repeated_bytes"]
    return {
        "ledger_bytes": ledger_bytes,
        "evaluation_bytes": result["bytes"]["evaluation"],
        "interface_bytes": interface_bytes,
        "seen_bytes": (before + run + others).total_bytes,
        "before_the_run_bytes": before.total_bytes,
        "run": asdict(run),
        "content_over_ledger": run.content_bytes / ledger_bytes,
        "run_over_ledger": run.total_bytes / ledger_bytes,
    }


def print_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    print("| network | bits | measured, s | predicted, s | ratio |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, of in results.items():
        print(
            f"| {name} | {'same' if of['same_bits'] else 'differ'} | {of['measured_s']:.1f} | "
            f"{of['predicted_s']:.1f} | {of['measured_over_predicted']:.3f} |"
        )
    print("\n| network | ledger | evaluation | run | before the run | of it fronts |")
    print("| --- |" + " ---: |" * 5)
    for name, of in results.items():
        ledger, before, fronts = of["ledger_bytes"], of["before_the_run_bytes"], of["fronts_bytes"]
        print(
            f"| {name} | {ledger:,} B | {of['evaluation_bytes']:,} B | {of['run_over_ledger']:.1%} | {before:,} B | "
            f"{fronts:,} B |"
        )
    print(
        "\n| network | ledger | content of TLS | TLS | headers | acknowledgements | sent again | interface |"
    )
    print("| --- |" + " ---: |" * 7)
    for name, of in results.items():
        run, ledger = Layers(**of["run"]), of["ledger_bytes"]
        parts = (run.content_bytes, run.tls_bytes, run.header_bytes, run.bare_bytes, run.repeated_bytes)
        cells = [f"{100 * part / ledger:.2f} %" for part in (*parts, run.total_bytes)]
        print(f"| {name} | {ledger:,} B | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=SCENARIOS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    forks = fork_server()
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as parent:
        model = write_tiny_model(Path(parent) / "model")
        for index, name in enumerate([options.only] if options.only else SCENARIOS):
            if name not in results:
                folder = Path(parent) / str(index)
                results[name] = measure(SCENARIOS[name], model, folder, forks)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
                print(name, json.dumps(results[name]), flush=True)
    print_table(results)


if __name__ == "__main__":
    main()
