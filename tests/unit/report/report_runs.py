"""Invented run and comparison folders in the format that training writes."""

import json
import math
from pathlib import Path
from typing import Any

FLOWS = (
    "activation_up",
    "gradient_down",
    "activation_down",
    "gradient_up",
    "labels_up",
    "adapter_up",
    "adapter_down",
    "control",
    "evaluation",
)
UP = ("activation_up", "gradient_up", "labels_up", "adapter_up", "control")


def totals(flows: dict[str, int]) -> dict[str, int]:
    up = sum(size for flow, size in flows.items() if flow in UP)
    total = sum(flows.values())
    return flows | {"up": up, "down": total - up, "total": total}


def flows_of(scale: float, adapters: int = 40_000) -> dict[str, int]:
    split = (
        {"activation_up": int(1_500_000 * scale), "gradient_down": int(1_500_000 * scale)} if scale else {}
    )
    rest = {"adapter_up": adapters, "adapter_down": adapters, "control": 300, "evaluation": 90_000}
    labels = {"labels_up": 9_000} if scale else {}
    return dict.fromkeys(FLOWS, 0) | split | labels | (rest if adapters else {})


def make_run(
    folder: Path,
    method: str = "splitcom",
    label: str = "splitcom temporal(0.98) > delta > int4",
    seed: int = 0,
    scale: float = 0.1,
    floor: float = 2.18,
    rounds: int = 4,
    clients: int = 3,
    adapters: int = 40_000,
    **changes: Any,
) -> dict[str, Any]:
    """Write a run folder whose loss falls to about `floor` and whose tensor flows are `scale` of fp16."""
    losses = [floor + 1.3 * math.exp(-0.7 * done) + 0.004 * seed for done in range(rounds + 1)]
    sent, whole = flows_of(scale, adapters), flows_of(1.0 if scale else 0.0, adapters)
    lines = [
        {
            "round": done,
            "client": client,
            "steps": 20,
            "tokens": 12_345,
            "loss": losses[done] + 0.05 * client + 0.02 * math.sin(3 * done + client),
            "eval_loss": losses[done],
            "threshold": {"activation_up": 0.98} if "temporal" in label else {},
            "skip_ratio": {"activation_up": 0.9 - 0.8 / done} if "temporal" in label else {},
            "bytes": totals(sent),
            "uncompressed_bytes": totals(whole),
            "seconds": {"client": 1.2, "server": 0.8, "codec": 0.1, "virtual": 12.3 * done},
        }
        for done in range(1, rounds + 1)
        for client in range(clients)
    ]
    times = rounds * clients
    all_sent = totals({flow: size * times for flow, size in sent.items()})
    all_whole = totals({flow: size * times for flow, size in whole.items()})
    result = {
        "method": method,
        "label": label,
        "model": "bundled",
        "seed": seed,
        "rounds": rounds,
        "clients": clients,
        "eval": {
            "loss": losses[-1],
            "perplexity": math.exp(losses[-1]),
            "best_loss": min(losses),
            "initial_loss": losses[0],
        },
        "bytes": all_sent,
        "uncompressed_bytes": all_whole,
        "saving": {
            key: 1 - all_sent[key] / all_whole[key] if all_whole[key] else 0.0
            for key in ("up", "down", "total")
        },
        "seconds": {"wall": 81.5, "virtual": 12.3 * rounds},
        "environment": {"torch": "2.13.0", "python": "3.12.3"},
    } | changes
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[codec]\nactivation_up = "temporal(0.98) > delta > int4"\n')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps(result))
    return result


METHODS: list[dict[str, Any]] = [
    {"method": "splitlora", "label": "splitlora", "scale": 1.0, "floor": 2.18},
    {"method": "frozen_front", "label": "frozen_front", "scale": 0.05, "floor": 2.25},
    {"method": "fedlora", "label": "fedlora", "scale": 0.0, "floor": 2.19, "adapters": 120_000},
    {"method": "centralised", "label": "centralised", "scale": 0.0, "adapters": 0, "floor": 2.17},
    {"method": "splitcom", "label": "splitcom temporal(0.98)", "scale": 0.69, "floor": 2.194},
    {"method": "splitcom", "label": "splitcom temporal(0.95)", "scale": 0.61, "floor": 2.21},
    {"method": "splitcom", "label": "splitcom delta > int4(group=64)", "scale": 0.26, "floor": 2.181},
    {
        "method": "splitcom",
        "label": "splitcom temporal(0.98) > delta > int2(group=64) > zstd(3)",
        "scale": 0.09,
    },
]


def make_comparison(folder: Path, seeds: int = 2, methods: list[dict[str, Any]] | None = None) -> Path:
    runs = []
    for place, method in enumerate(methods or METHODS):
        for seed in range(seeds):
            name = f"{method['method']}{place}-seed{seed}"
            runs.append({"folder": name, "result": make_run(folder / name, seed=seed, **method)})
    (folder / "comparison.json").write_text(json.dumps({"runs": runs}))
    return folder
