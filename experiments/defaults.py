"""What a run's defaults teach: held-out loss by targets, rate, batch and schedule, on the bundled model and on others.

    python experiments/defaults.py runs/defaults                  the bundled model, the default data
    python experiments/defaults.py runs/defaults --model MODEL    another one, on fewer of them: a step takes seconds
    python experiments/defaults.py runs/defaults --whole          splitcom, three clients, five rounds, as `train` does

Each line is a run with these settings changed, seed 0, of one client that trains the whole model: what a codec and more
clients change is another question, which --whole answers for those that matter. What is there is not run again.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from splitcom.config import Config
from splitcom.methods.run import train
from splitcom.metrics.record import RunFolder

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PEFT = ["q_proj", "v_proj"]  # peft's choice for this family
BEFORE = {"lora.targets": PEFT, "training.lr": 1e-3, "training.batch_size": 8, "training.schedule": "linear"}
"""What the defaults were."""
SPLIT: list[dict[str, Any]] = [
    {"lora.targets": ALL},
    {"lora.targets": ALL, "training.lr": 3e-3},
    {"lora.targets": ALL, "training.lr": 3e-3, "training.batch_size": 4},
    {"lora.targets": ALL, "training.lr": 1e-2},
    {"lora.targets": ALL, "training.lr": 2e-3, "training.batch_size": 4},
    {},
]
CHANGES: list[dict[str, Any]] = [
    {},
    {"lora.targets": ALL},
    {"lora.targets": ALL, "training.lr": 3e-3},
    {"lora.targets": ALL, "training.lr": 3e-3, "training.batch_size": 4},
    {"lora.targets": ALL, "training.lr": 1e-2},
    {"training.lr": 3e-3},
    {"lora.targets": ALL, "training.lr": 3e-3, "training.schedule": "cosine"},
]
SMALL = {"method": "centralised", "federation.clients": 1, "evaluation.generate": 0}
BUNDLED = {"data.samples": 160, "data.held_out_samples": 40, "training.rounds": 3}
OTHER = {"data.samples": 40, "data.held_out_samples": 12, "training.rounds": 2}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--most", type=int, default=100, help="how many runs at most")
    parser.add_argument("--whole", action="store_true", help="the default method, clients, data and rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    changes = SPLIT if arguments.whole else CHANGES
    few = SMALL | (BUNDLED if arguments.model == "bundled" else OTHER)
    missing = [one for one in changes if RunFolder(_place(arguments, one)).result() is None]
    for one in missing[: arguments.most]:
        scale = {"evaluation.generate": 0} if arguments.whole else few
        settings = {"model.source": arguments.model, **BEFORE, **one, **scale}
        place = _place(arguments, one)
        train(Config().override(settings), place, resume=place.exists())
    print("| targets | rate | batch | schedule | loss before | after | MB | of them adapters | s |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for one in changes:
        if (result := RunFolder(_place(arguments, one)).result()) is not None:
            print(_line(BEFORE | one, result))


def _place(arguments: argparse.Namespace, change: Mapping[str, Any]) -> Path:
    words = [f"{key.partition('.')[2]}-{'all' if value == ALL else value}" for key, value in change.items()]
    kind = "whole" if arguments.whole else "one-client"
    return arguments.folder / Path(arguments.model).name / kind / ("-".join(words) or "before")


def _line(settings: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    found, sent = result["eval"], result["bytes"]
    cells = [
        "all linear" if settings["lora.targets"] == ALL else "peft's",
        f"{settings['training.lr']:g}",
        str(settings["training.batch_size"]),
        settings["training.schedule"],
        f"{found['initial_loss']:.3f}",
        f"{found['loss']:.3f}",
        f"{sent['total'] / 1e6:.1f}",
        f"{(sent['adapter_up'] + sent['adapter_down']) / 1e6:.1f}",
        f"{result['seconds']['wall']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
