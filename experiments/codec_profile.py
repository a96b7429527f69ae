"""Where the predicting codec's time goes, and what its shortcuts cost, on the packets of `benchmarks/codecs.py`.

    python experiments/codec_profile.py [--width 2048] [--search-rounds 2] [--step-factor 1.0] [--top 12]

For each flow of `balanced` and each visit: bytes, error, directions, how many tokens were searched for and jump, how
many bands of codes are all zero; then CPU milliseconds of encoding and decoding by function. `--search-rounds` are
those of the search for missing directions, `--step-factor` makes the step larger: both show what a byte costs in error.
"""

import argparse
import cProfile
import importlib.util
import pstats
import re
import time
from pathlib import Path

import numpy as np
import torch

from splitcom.codecs import Context, MemoryReferences, parse
from splitcom.codecs.lattice import basis, body, coder
from splitcom.codecs.lattice.predict import Window
from splitcom.settings.presets import PRESETS

_SPEC = importlib.util.spec_from_file_location(
    "codec_benchmark", Path(__file__).parents[1] / "benchmarks" / "codecs.py"
)
assert _SPEC is not None and _SPEC.loader is not None
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


class Counts:
    """What the sender of a packet has done."""

    def __init__(self) -> None:
        self.searched = self.jumps = self.bands = self.zero_bands = 0
        nearest, plan = Window.nearest, body.plan

        def counting_nearest(window, coordinates, *arguments):
            self.searched += len(coordinates)
            return nearest(window, coordinates, *arguments)

        def counting_plan(*arguments):
            modes, codes, *rest = plan(*arguments)
            self.jumps += int(modes.jump.sum())
            bands = coder.bands_of(codes.shape[1])
            self.bands += len(bands)
            self.zero_bands += sum(not codes[:, columns].any() for columns in bands)
            return modes, codes, *rest

        Window.nearest, body.plan = counting_nearest, counting_plan

    def take(self) -> str:
        text = f"{self.searched} searched for, {self.jumps} jump, {self.zero_bands} of {self.bands} bands are zero"
        self.searched = self.jumps = self.bands = self.zero_bands = 0
        return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--search-rounds", type=int, default=basis._ROUNDS)
    parser.add_argument("--step-factor", type=float, default=1.0)
    parser.add_argument("--top", type=int, default=12, help="functions to show, 0 for none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    basis._ROUNDS = arguments.search_rounds
    counts = Counts()
    makers = {"activation_up": benchmark.activations, "gradient_down": benchmark.gradients}
    for flow, make in makers.items():
        text = re.sub(
            r"uniform\(([0-9.]+)",
            lambda match: f"uniform({float(match[1]) * arguments.step_factor:g}",
            PRESETS["balanced"][flow]["codec"],
        )
        visits = benchmark.packets(make(arguments.width))
        codec = parse(text)
        codec.encode(visits[0][1], visits[0][0], Context(MemoryReferences()))  # loads compiled loops
        counts.take()
        sender, receiver = MemoryReferences(), MemoryReferences()
        for visit, (ids, batch) in zip(benchmark.VISITS, visits, strict=True):
            encoding, decoding = cProfile.Profile(time.process_time), cProfile.Profile(time.process_time)
            encoded = encoding.runcall(codec.encode, batch, ids, Context(sender))
            decoded = decoding.runcall(codec.decode, encoded.packet, receiver)
            error = float((decoded.batch.values - batch.values).norm() / batch.values.norm())
            directions = len(np.asarray(sender.flow.arrays["rows"]))
            print(
                f"{flow}, {visit}: {len(encoded.packet)} bytes, error {error:.4f}, {directions} directions, "
                f"{counts.take()}",
                flush=True,
            )
            for name, profile in (("encode", encoding), ("decode", decoding)):
                if arguments.top:
                    show(name, profile, arguments.top)


def show(name: str, profile: cProfile.Profile, top: int) -> None:
    """The functions in which most time has been spent, with what they call."""
    found = pstats.Stats(profile).stats.items()
    for (file, _, function), (_, calls, _, seconds, _) in sorted(found, key=lambda item: -item[1][3])[:top]:
        print(f"    {name} {1e3 * seconds:8.1f} ms {calls:6} x {Path(file).stem}.{function}")


if __name__ == "__main__":
    main()
