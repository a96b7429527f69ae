"""What a base of 16 bits learns on the CPU: losses and time by `model.dtype`, everything else alike.

    python experiments/float16.py runs/float16 --model MODEL [--set KEY=VALUE ...]

One client and the server's part in one process, uncompressed, on the default data. What is there is not run again.
"""

import argparse
import json
from pathlib import Path

import torch

from splitcom.config import Config
from splitcom.errors import SplitComError
from splitcom.methods.run import train
from splitcom.metrics.record import RunFolder
from splitcom.settings.tree import parse_assignment

SMALL = {
    "method": "splitlora",
    "federation.clients": 1,
    "data.samples": 24,
    "data.held_out_samples": 8,
    "training.rounds": 3,
    "training.batch_size": 4,
    "evaluation.generate": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| dtype | losses, from before training on | s |")
    print("| --- | --- | ---: |")
    for dtype in ("float32", "bfloat16", "float16"):
        place = arguments.folder / dtype
        own = {"model.source": arguments.model, "model.dtype": dtype}
        config = Config().override(SMALL | own | dict(map(parse_assignment, arguments.changes)))
        try:
            result = RunFolder(place).result() or train(config, place, resume=place.exists()).result
        except SplitComError as error:
            print(f"| {dtype} | {error} | |", flush=True)
            continue
        lines = map(json.loads, (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        losses = {line["round"]: line["eval_loss"] for line in lines}
        told = ", ".join(f"{loss:.4f}" for loss in losses.values())
        print(f"| {dtype} | {told} | {result['seconds']['wall']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
