"""What noise on labels costs: loss and accuracy by epsilon, of a text's domain out of six, with the bundled model.

    python experiments/labels.py OUT [--samples 300] [--rounds 3]

The texts are generated. A run that has ended is not done again. Printed for each epsilon: how many labels stay as they
are, the loss of held-out texts, whose labels have no noise, and how many of these the model tells.
"""

import argparse
import csv
import json
from pathlib import Path

from splitcom import Config
from splitcom.data.generate import domains, generate
from splitcom.methods.run import train
from splitcom.privacy import Randomised

EPSILONS = (None, 4.0, 2.0, 1.0, 0.5)
HELD_OUT = 120


def write_rows(path: Path, samples: int) -> list[str]:
    """As many texts of each domain, and the names of the domains."""
    names = list(domains())[:6]
    each = -(-(samples + HELD_OUT) // len(names))
    rows = [(pair["text"], name) for name in names for pair in generate(name, each, seed=3)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "domain"), *rows])
    return names


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "texts.csv"
    names = write_rows(rows, options.samples)
    config = Config().override(
        {
            "data.task": "classification",
            "data.source": str(rows),
            "data.prompt": "{text}",
            "data.response": "domain",
            "data.labels": names,
            "data.samples": options.samples,
            "data.held_out_samples": HELD_OUT,
            "data.max_tokens": 64,
            "training.rounds": options.rounds,
        }
    )
    print("| epsilon of a label | labels kept | loss | accuracy |\n| ---: | ---: | ---: | ---: |")
    for epsilon in EPSILONS:
        kept, folder = 1.0, options.out / str(epsilon)
        if epsilon is not None:
            kept = Randomised(epsilon).kept(len(names))
            config = config.override({"client.label_noise": f"randomised({epsilon})"})
        if not (folder / "result.json").exists():
            train(config, folder)
        told = json.loads((folder / "result.json").read_text())["eval"]
        name = "none" if epsilon is None else f"{epsilon:g}"
        print(f"| {name} | {kept:.0%} | {told['loss']:.3f} | {told['accuracy']:.1%} |", flush=True)


if __name__ == "__main__":
    main()
