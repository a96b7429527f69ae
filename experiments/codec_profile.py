"""Where the predicting codec's time goes, and what its shortcuts cost.

    python experiments/codec_profile.py [--width 2048] [--search-rounds 1] [--step-factor 1.0] [--top 12]
    python experiments/codec_profile.py --recording FILE [--preset quality] [--top 0]

Packets are those of `benchmarks/codecs.py`, or those of a training that `codec_natural.py` has recorded. For each flow
and each packet: bytes, error, directions, how many tokens were searched for and jump, how many bands of codes are all
zero, tokens per second of CPU time; then CPU milliseconds of encoding and decoding by function, whose counting takes a
fifth of the speed (`--top 0` leaves it out); then bytes, error and speed of all packets together. `--search-rounds` are
those of the search for missing directions, `--step-factor` makes the step larger: both show what a byte costs in error.
"""

import argparse
import cProfile
import importlib.util
import pstats
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from splitcom.codecs import Along, Context, MemoryReferences, Ragged, parse
from splitcom.codecs.lattice import body, coder, missing
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


def synthetic(flow: str, width: int) -> Iterator[tuple[str, list[int], Ragged, Ragged]]:
    """Each packet's name, ids, values, and what these answer, which is the values themselves."""
    make = {"activation_up": benchmark.activations, "gradient_down": benchmark.gradients}[flow]
    for visit, (ids, batch) in zip(benchmark.VISITS, benchmark.packets(make(width)), strict=True):
        yield visit, ids, batch, batch


def recorded(flow: str, path: Path) -> Iterator[tuple[str, list[int], Ragged, Ragged]]:
    """The same of a recording."""
    from codec_natural import Recording

    recording, name = Recording(path, {}), {"activation_up": "values", "gradient_down": "gradients"}[flow]
    for index, step in enumerate(recording.steps):
        batches = (recording.ragged(index, step[kind]) for kind in (name, "values"))
        yield f"epoch {step['epoch']}, step {index}", recording.batches[index].sample_ids, *batches


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--recording", type=Path)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--search-rounds", type=int, default=missing._ROUNDS)
    parser.add_argument("--step-factor", type=float, default=1.0)
    parser.add_argument("--top", type=int, default=12, help="functions to show, 0 for none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    missing._ROUNDS = arguments.search_rounds
    counts = Counts()
    for flow in ("activation_up", "gradient_down"):
        text = re.sub(
            r"uniform\(([0-9.]+)",
            lambda match: f"uniform({float(match[1]) * arguments.step_factor:g}",
            PRESETS[arguments.preset][flow]["codec"],
        )
        given = arguments.recording
        packets = list(synthetic(flow, arguments.width) if given is None else recorded(flow, given))
        follow(flow, text, packets, counts, arguments.top)


def follow(flow: str, text: str, packets: list, counts: Counts, top: int) -> None:
    """Code packets in order, and print what there is to say of each."""
    codec = parse(text)
    sender, receiver = MemoryReferences(), MemoryReferences()
    for _, ids, batch, passed in packets[:2]:  # loads compiled loops
        along = Along.kept(passed, ids, codec.wants_along)
        codec.decode(codec.encode(batch, ids, Context(sender, along=along)).packet, receiver, along=along)
    counts.take()
    sender, receiver = MemoryReferences(), MemoryReferences()
    all_tokens, all_bytes, squares, encode_s, decode_s = 0, 0, 0.0, 0.0, 0.0
    for packet_name, ids, batch, passed in packets:
        along = Along.kept(passed, ids, codec.wants_along)
        encoding, decoding = cProfile.Profile(time.process_time), cProfile.Profile(time.process_time)
        started = time.process_time()
        with encoding if top else nullcontext():
            encoded = codec.encode(batch, ids, Context(sender, along=along))
        encoded_at = time.process_time()
        with decoding if top else nullcontext():
            decoded = codec.decode(encoded.packet, receiver, along=along)
        ended = time.process_time()
        error = float((decoded.batch.values - batch.values).norm() / batch.values.norm())
        tokens = len(batch.values)
        all_tokens, all_bytes = all_tokens + tokens, all_bytes + len(encoded.packet)
        squares += error**2
        encode_s, decode_s = encode_s + encoded_at - started, decode_s + ended - encoded_at
        print(
            f"{flow}, {packet_name}: {tokens} tokens, {len(encoded.packet)} bytes, error {error:.4f}, "
            f"{len(np.asarray(sender.flow.arrays['rows']))} directions, {counts.take()}; encoded at "
            f"{tokens / (encoded_at - started):,.0f}, decoded at {tokens / (ended - encoded_at):,.0f} tokens/s",
            flush=True,
        )
        for name, profile in (("encode", encoding), ("decode", decoding)):
            if top:
                show(name, profile, top)
    print(
        f"{flow}, all: {all_bytes} bytes, error {(squares / len(packets)) ** 0.5:.5f} (root mean square), encoded at "
        f"{all_tokens / encode_s:,.0f}, decoded at {all_tokens / decode_s:,.0f} tokens/s",
        flush=True,
    )


def show(name: str, profile: cProfile.Profile, top: int) -> None:
    """The functions in which most time has been spent, with what they call."""
    found = pstats.Stats(profile).stats.items()
    for (file, _, function), (_, calls, _, seconds, _) in sorted(found, key=lambda item: -item[1][3])[:top]:
        print(f"    {name} {1e3 * seconds:8.1f} ms {calls:6} x {Path(file).stem}.{function}")


if __name__ == "__main__":
    main()
