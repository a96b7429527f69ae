"""What a client-step costs with 3, 30, 300 and 3,000 simulated clients in one process, and the memory it takes.

At most 30 clients take part in a round, as in a fleet of devices; rounds go on until every client could have had one
turn. Frozen weights are shared, references live in files. The sizes take turns and the median over repetitions counts:

    python benchmarks/scale_clients.py [--sizes 3,30,300,3000] [--repeats 3] [--out scale_clients.json]

The goal: within 1.3 times of linear, that is of the cost per client-step with the fewest clients. Each measurement runs
in a process of its own, so that its peak memory is its own. Set-up (data, clients joining) is timed apart.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

ACTIVE = 30  # clients of a round at most
SAMPLES = 4  # of a client: one batch


def measure(clients: int) -> dict[str, float]:
    """One run in this process: seconds of set-up, seconds per client-step, peak memory in MB."""
    import torch

    from splitcom.config import Config
    from splitcom.parties.parts import load_parts
    from splitcom.parties.texts import load_texts
    from splitcom.simulation.simulation import Simulation

    torch.set_num_threads(1)
    rounds = max(clients // ACTIVE, 10 if clients < ACTIVE else 3)
    config = Config().override(
        {
            "model.device": "cpu",
            "federation.clients": clients,
            "federation.sample": min(1.0, ACTIVE / clients),
            "data.samples": clients * SAMPLES,
            "data.held_out_samples": 8,
            "training.rounds": rounds,
            "training.batch_size": SAMPLES,
            "training.body_update": "sequential",
            "training.checkpoint_every": rounds,
            "evaluation.every": rounds,
            "references.store": "file",
            "references.limit_mb": 1.0,
        }
    )
    started = perf_counter()
    texts, parts = load_texts(config), load_parts(config)
    before_mb = _peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(config, texts, parts, Path(folder))
        lines = simulation.federation.run()
        next(lines)  # clients have joined
        joined = perf_counter()
        steps = sum(line["steps"] for of_round in lines for line in of_round)
        seconds = perf_counter() - joined
        simulation.close()
    return {
        "set-up s": joined - started,
        "steps": steps,
        "ms per client-step": 1e3 * seconds / steps,
        "peak MB": _peak_mb(),
        "of it for the run, MB": _peak_mb() - before_mb,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="3,30,300,3000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    sizes = [int(size) for size in arguments.sizes.split(",")]
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(arguments.repeats):
        for size in sizes:
            command = [sys.executable, __file__, "--one", str(size)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found[size].append(json.loads(run.stdout))
    medians = {
        size: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for size, runs in found.items()
    }
    least = medians[sizes[0]]["ms per client-step"]
    print(
        f"{'clients':>8} {'steps':>7} {'ms/client-step':>15} {'of linear':>10} {'set-up s':>9} {'peak MB':>8}"
    )
    for size, run in medians.items():
        cost = run["ms per client-step"]
        print(
            f"{size:8} {run['steps']:7.0f} {cost:15.1f} {cost / least:10.2f} {run['set-up s']:9.1f} "
            f"{run['peak MB']:8.0f}"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps({"cores": os.cpu_count(), "results": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
