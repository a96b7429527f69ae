"""What `train --dry-run` foretells beside what a run sends and takes.

    python experiments/forecast.py RUN.toml [--set KEY=VALUE ...] [--link 10/40]

The run is a simulation over links of that speed: its bytes are those of messages, its seconds those of its virtual
clock, in which computing is measured. Other programs make computing slower, in trial and run not always alike.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import torch

from splitcom.config import Config
from splitcom.methods.forecast import Cost, forecast
from splitcom.methods.run import train
from splitcom.settings.tree import parse_assignment
from splitcom.transports.link import Link


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--link", default="10/40", metavar="UP/DOWN")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = Config.load(arguments.config, dict(map(parse_assignment, arguments.set)))
    link = Link.parse(arguments.link)
    told = forecast(config, link)
    limits = {"links.up_mbps": link.up_mbps, "links.down_mbps": link.down_mbps}
    with tempfile.TemporaryDirectory() as folder:
        run = train(config.override(limits), Path(folder) / "run")
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    sent: Counter[int] = Counter()
    ended: dict[int, float] = {}  # virtual seconds
    for line in lines:
        sent[line["round"]] += line["bytes"]["total"]
        ended[line["round"]] = line["seconds"]["virtual"]
    print(f"trial of {told.steps} steps; {arguments.link} Mbit/s")
    print(
        f"{'round':10}{'foretold':>12}{'sent, kB':>12}{'of it':>8}{'foretold':>12}{'taken, s':>12}{'of it':>8}"
    )
    before_s = 0.0
    for index in sorted(sent):
        print_row(str(index), [told.of_round(index)], sent[index], ended[index] - before_s)
        before_s = ended[index]
    rounds = [told.of_round(index) for index in range(1 + told.num_rounds)]
    print_row("the run", rounds, sum(sent.values()), run.result["seconds"]["virtual"])
    print(f"of these on the link, foretold: {sum(one.link_s for one in rounds):.1f} s")


def print_row(name: str, rounds: list[Cost], sent: int, taken_s: float) -> None:
    """A line of the table."""
    size = sum(one.up_bytes + one.down_bytes for one in rounds)
    seconds = sum(one.link_s + one.computing_s for one in rounds)
    print(
        f"{name:10}{size / 1e3:12,.1f}{sent / 1e3:12,.1f}{size / sent:8.2f}"
        f"{seconds:12,.1f}{taken_s:12,.1f}{seconds / taken_s:8.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
