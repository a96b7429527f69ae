"""Minutes of real processes over shaped links until the loss is within 1 % of the best uncompressed one.

    python -m experiments.time_to_quality [CONFIG] --out OUT [--link 2 --link 10 ...] [--method quality ...]

A server and the clients are processes in network namespaces of their own (root, iproute2), each client behind a link
of so many Mbit/s up and four times as many down. Without CONFIG it is what `splitcom demo` trains. All methods hold
out the same samples and evaluate them with the same codec after each round, so that evaluation does not decide; the
last exact pass is left out. Between two evaluations the loss is taken to fall evenly. A method that ends above that
loss has never reached it. "2 body steps" is `training.body_steps`; the loss to reach is that of fp16 with one.

Processes share the cores of one machine: the fewer there are, the more of the time is computing, in which methods
hardly differ. "link, s" is what the bytes of the busiest client alone take. What is done is kept in OUT/results.json,
and is not run again.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from splitcom.config import Config
from splitcom.durable import write_atomic
from splitcom.settings.tree import parse_assignment
from tests.faults.netns import Network
from tests.integration.parties import Deployment, fork_server, make_authority

PORT = 7001
RUN_S = 3600.0  # after which a run is taken to hang
DOWN = 4  # times as fast as up
_CUT_INT8 = {f"flows.{flow}.codec": "int8 > zstd" for flow in ("activation_up", "gradient_down")}
_PLAIN = {f"flows.{flow}.codec": "fp16" for flow in ("adapter_up", "adapter_down")}
_ONE_STEP: Mapping[str, Mapping[str, Any]] = {
    "fp16": {"method": "splitlora"},
    "int8": {**_CUT_INT8, **_PLAIN},
    "aq_sgd": {"method": "aq_sgd"},
    "split_lite": {"method": "split_lite"},
    "frozen front, coded": {"preset": "quality", "lora.train_front": False},
    "fine": {"preset": "fine"},
    "quality": {"preset": "quality"},
    "balanced": {"preset": "balanced"},
}
_MORE = {
    f"{name}, 2 body steps": {**_ONE_STEP[name], "training.body_steps": 2}
    for name in ("fp16", "int8", "frozen front, coded", "quality", "balanced")
}
METHODS: Mapping[str, Mapping[str, Any]] = {**_ONE_STEP, **_MORE}
EVALUATION = {
    "evaluation.codec": "predict(gain=fitted, guess=labels) > klt > uniform(0.25) > range",
    "evaluation.share": None,
    "evaluation.exact_last": False,
    "evaluation.generate": 0,
    "evaluation.text_samples": 0,
    "model.device": "cpu",
}


def measure(config: Config, up_mbps: float, folder: Path, forks: Any) -> dict[str, Any]:
    """Train over such links; seconds and loss of each evaluation."""
    with Network(config.federation.clients) as network:
        for client in network.clients:
            network.shape(client, up_bps=1e6 * up_mbps, down_bps=DOWN * 1e6 * up_mbps)
        host = network.server.address
        authority = make_authority(folder / "authority", config.federation.clients, [host])
        names = [network.server.name, *(client.name for client in network.clients)]
        (folder / "run-files").mkdir()
        deployment = Deployment(
            forks, authority, config, folder / "run-files", port=PORT, host=host, namespaces=names
        )
        deployment.start_server()
        clients = deployment.clients()
        for client in clients:
            client.start()
        for party in (*clients, deployment.server):
            party.end(patience_s=RUN_S)
        lines = [json.loads(line) for line in (deployment.out / "metrics.jsonl").read_text().splitlines()]
        counters = [client.counters() for client in network.clients]
    curve = {
        line["round"]: (line["seconds"]["virtual"], line["eval_loss"])
        for line in lines
        if line["eval_loss"] is not None
    }
    link_s = max(
        8 * one.sent_bytes / (1e6 * up_mbps) + 8 * one.received_bytes / (DOWN * 1e6 * up_mbps)
        for one in counters
    )
    sent = json.loads((deployment.out / "result.json").read_text())["bytes"]["total"]
    begun = curve[0][0]
    points = [(seconds - begun, loss) for _, (seconds, loss) in sorted(curve.items())]
    return {"curve": points, "link_s": link_s, "bytes": sent}


def reached(curve: list[tuple[float, float]], loss: float) -> float | None:
    """Seconds at which the loss has fallen to that, evenly from one evaluation to the next.

    >>> reached([(0.0, 4.0), (10.0, 2.0)], 3.0)
    5.0
    """
    for (before_s, before), (after_s, after) in pairwise(curve):
        if after <= loss:
            return before_s + (after_s - before_s) * (before - loss) / (before - after)
    return None


def print_table(results: Mapping[str, Mapping[str, Any]], links: list[float]) -> None:
    for link in links:
        of = {name: results[key] for name in METHODS if (key := f"{link:g} {name}") in results}
        if "fp16" not in of:
            continue
        wanted = 1.01 * min(loss for _, loss in of["fp16"]["curve"])
        print(f"\n{link:g} Mbit/s up, {DOWN * link:g} down: until the loss is {wanted:.4f}\n")
        print("| method | seconds | its last loss | whole run, s | link, s | all bytes, MB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, one in of.items():
            seconds = reached(one["curve"], wanted)
            told = "–" if seconds is None else f"{seconds:.0f}"
            end_s, last = one["curve"][-1]
            print(
                f"| {name} | {told} | {last:.4f} | {end_s:.0f} | {one['link_s']:.0f} | {one['bytes'] / 1e6:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, nargs="?", default=Path(__file__).with_name("bundled.toml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--link", type=float, action="append", metavar="MBIT", help="2, 10, 50 and 200")
    parser.add_argument("--method", choices=METHODS, action="append", help="all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    links = options.link or [2.0, 10.0, 50.0, 200.0]
    changes = dict(map(parse_assignment, options.set))
    kept = options.out / "results.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    options.out.mkdir(parents=True, exist_ok=True)
    forks = fork_server()
    for link in links:
        for name in options.method or METHODS:
            if (key := f"{link:g} {name}") in results:
                continue
            config = Config.load(options.config, {**EVALUATION, **METHODS[name], **changes})
            with tempfile.TemporaryDirectory() as folder:
                results[key] = measure(config, link, Path(folder), forks)
            write_atomic(kept, json.dumps(results, indent=1).encode())
            print(f"{link:g} Mbit/s, {name}: {results[key]['curve'][-1]}", flush=True)
    print_table(results, links)


if __name__ == "__main__":
    main()
