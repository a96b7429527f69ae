"""What a client-step costs with 3, 30, 300 and 3,000 simulated clients in one process, and the memory it takes.

At most 30 clients take part in a round, as in a fleet of devices; rounds go on until every client could have had one
turn. Frozen weights are shared, references live in files. The sizes take turns and the median over repetitions counts:

    python benchmarks/scale_clients.py [--sizes 3,30,300,3000] [--repeats 3] [--out scale_clients.json]

The goal: within 1.3 times of linear, that is of the cost per client-step with the fewest clients. Each measurement runs
in a process of its own, so that its peak memory is its own. Set-up (data, clients joining) is timed apart.

With Ray, many clients in actors beside few in one process, and the memory of all processes after each round:

    python benchmarks/scale_clients.py --engine ray --sizes 100,10000 --active 100 --rounds 10 --every 1

The first size runs in one process, the others in a cluster on this machine. Seconds are of computing, of all processes
of the run and of Ray's own, so that they depend less on how busy the machine is. With `--every 1` each round is
saved, and clients at rest are gone. The goals: within 1.3 times of one process, and memory that does not grow with
rounds.
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

import psutil

SAMPLES = 4  # of a client: one batch


def measure(
    clients: int, active: int, rounds: int | None, every: int | None, engine: str
) -> dict[str, float]:
    """One run under this process: seconds of set-up, seconds per client-step, memory in MB."""
    import torch

    from splitcom.config import Config
    from splitcom.parties.parts import load_parts
    from splitcom.parties.texts import load_texts
    from splitcom.simulation.simulation import Simulation

    torch.set_num_threads(1)
    rounds = rounds or max(clients // active, 10 if clients < active else 3)
    config = Config().override(
        {
            "model.device": "cpu",
            "federation.clients": clients,
            "federation.sample": min(1.0, active / clients),
            "engine.kind": engine,
            "data.samples": clients * SAMPLES,
            "data.held_out_samples": 8,
            "training.rounds": rounds,
            "training.batch_size": SAMPLES,
            "training.body_update": "sequential",
            "training.checkpoint_every": every or rounds,
            "evaluation.every": rounds,
            "references.store": "file",
            "references.limit_mb": 1.0,
        }
    )
    started, memory_mb = perf_counter(), []
    texts, parts = load_texts(config), load_parts(config)
    before_mb = _peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(config, texts, parts, Path(folder))
        lines = simulation.federation.run()
        next(lines)  # clients have joined
        joined, computed = perf_counter(), _computed_s()
        steps = 0
        for of_round in lines:
            steps += sum(line["steps"] for line in of_round)
            memory_mb.append(_memory_mb())
            print(f"round {len(memory_mb)}: {memory_mb[-1]:,.0f} MB", file=sys.stderr, flush=True)
        seconds, computing = perf_counter() - joined, _computed_s() - computed
        simulation.close()
    return {
        "set-up s": joined - started,
        "steps": steps,
        "ms per client-step": 1e3 * seconds / steps,
        "ms of computing per client-step": 1e3 * computing / steps,
        "MB after a third of the rounds": memory_mb[len(memory_mb) // 3],
        "MB after the last": memory_mb[-1],
        "peak MB": _peak_mb(),
        "of it for the run, MB": _peak_mb() - before_mb,
    }


def _computed_s() -> float:
    """Seconds that this process and those that it has started have computed."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


def _memory_mb() -> float:
    """What this process and those that it has started take, each shared page once."""
    this = psutil.Process()
    return sum(process.memory_full_info().pss for process in (this, *this.children(recursive=True))) / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="3,30,300,3000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="of all but the first size"
    )
    parser.add_argument("--active", type=int, default=30, help="clients of a round at most")
    parser.add_argument("--rounds", type=int, help="as many as give each client a turn, if not given")
    parser.add_argument("--every", type=int, help="rounds between checkpoints; only the last, if not given")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(
            json.dumps(
                measure(arguments.one, arguments.active, arguments.rounds, arguments.every, arguments.engine)
            )
        )
        return
    sizes = [int(size) for size in arguments.sizes.split(",")]
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(arguments.repeats):
        for size in sizes:
            engine = "local" if size == sizes[0] else arguments.engine
            command = [sys.executable, __file__, "--one", str(size), "--engine", engine]
            command += ["--active", str(arguments.active)]
            for option in ("rounds", "every"):
                value = getattr(arguments, option)
                command += [] if value is None else [f"--{option}", str(value)]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[size].append(json.loads(run.stdout))
    medians = {
        size: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for size, runs in found.items()
    }
    column = "ms per client-step" if arguments.engine == "local" else "ms of computing per client-step"
    least = medians[sizes[0]][column]
    print(
        f"{'clients':>8} {'steps':>7} {'ms/client-step':>15} {'of linear':>10} {'set-up s':>9} {'peak MB':>8} "
        f"{'MB at 1/3':>10} {'MB at end':>10}"
    )
    for size, run in medians.items():
        cost = run[column]
        print(
            f"{size:8} {run['steps']:7.0f} {cost:15.1f} {cost / least:10.2f} {run['set-up s']:9.1f} "
            f"{run['peak MB']:8.0f} {run['MB after a third of the rounds']:10.0f} {run['MB after the last']:10.0f}"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps({"cores": os.cpu_count(), "results": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
