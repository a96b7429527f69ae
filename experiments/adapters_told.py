"""What single adapters give away, by how many samples a client has: members, owners and tokens of its text.

    python experiments/adapters_told.py OUT [CONFIG] [--samples 1,4,16]

A round of four epochs with three clients of so many samples, of the bundled model without CONFIG. Adapters go to the
server as they are, and through the run's codec, which rounds small changes to nothing: in a first round most of those
of the matrices that read embeddings. What is done is kept in OUT. Printed: shares, with chance in brackets.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from splitcom import Config
from splitcom.durable import write_atomic
from splitcom.methods.beside import updates_told
from splitcom.methods.run import configured
from splitcom.parties.texts import with_chat

ATTACKS = ("member or not", "whose sample", "tokens of its text", "whose token")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("config", type=Path, nargs="?")
    parser.add_argument("--samples", default="1,4,16")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    base = Config() if options.config is None else Config.load(options.config)
    print("| samples | codec |", " | ".join(ATTACKS), "|")
    for samples in map(int, options.samples.split(",")):
        for codec in ("none", base.flows.codec("adapter_up")):
            path = options.out / f"{samples}, {codec.replace(' ', '')}.json"
            if not path.exists():
                changes = {
                    "data.samples": 3 * samples,
                    "training.local_epochs": 4,
                    "flows.adapter_up.codec": codec,
                }
                config = with_chat(configured(base.override(changes)))
                found = [asdict(finding) for finding in updates_told(config, 16)]
                write_atomic(path, json.dumps(found, indent=1).encode())
            told = {
                one["attack"].split(",")[0]: f"{one['share']:.0%} ({one['chance']:.0%})"
                for one in json.loads(path.read_text())
                if one["codec"] == "one client's adapter"
            }
            cells = [str(samples), f"`{codec}`", *(told.get(attack, "–") for attack in ATTACKS)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
