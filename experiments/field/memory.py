"""What a client of each method needs of memory, from the model's shapes: a row for each method, as Markdown.

python experiments/field/memory.py [MODEL [METHOD ...]]

Without a model the bundled one, without methods all; 200 samples of 128 tokens, in batches of 8.
"""

import sys

from splitcom.config import Config
from splitcom.methods import METHODS
from splitcom.methods.need import need_of_client
from splitcom.methods.run import configured

_SAMPLES, _TOKENS = 200, 128
_PARTS = ("weights", "adapter", "optimizer", "activations", "codec", "references")


def main() -> None:
    """Print the table, in MB; Python and its libraries are left out, which every client has."""
    model = sys.argv[1] if len(sys.argv) > 1 else "bundled"
    print(f"| method | {' | '.join(_PARTS)} | all |\n| --- |{' ---: |' * (len(_PARTS) + 1)}")
    for name in sys.argv[2:] or METHODS:
        config = configured(Config().override({"method": name, "model.source": model, "model.device": "cpu"}))
        need = need_of_client(config, _SAMPLES, _TOKENS)
        sizes = [getattr(need, part) for part in _PARTS]
        print(f"| {name} | {' | '.join(f'{size / 1e6:,.1f}' for size in (*sizes, sum(sizes)))} |", flush=True)


if __name__ == "__main__":
    main()
