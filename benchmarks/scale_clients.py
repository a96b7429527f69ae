"""What a client-step costs with 3, 30, 300 and 3,000 simulated clients in one process, and the memory it takes.

At most 30 clients take part in a round, as in a fleet of devices; rounds go on until every client could have had one
turn. Frozen weights are shared, references live in files. The sizes take turns and the median over repetitions counts.
The last column is what the server computes to save the last round:

    python benchmarks/scale_clients.py [--sizes 3,30,300,3000] [--repeats 3] [--out scale_clients.json]

The goal: within 1.3 times of linear, that is of the cost per client-step with the fewest clients. Each measurement runs
in a process of its own, so that its peak memory is its own. Set-up (data, clients joining) is timed apart.

With Ray, the same clients in actors and in one process, and the memory of all processes after each round:

    python benchmarks/scale_clients.py --engine ray --sizes 100,10000 --active 100 --rounds 10 --every 1

Each size runs in one process and then in a cluster on this machine. Seconds are of computing, of all processes of the
run and of Ray's own, so that they depend less on how busy the machine is. With `--every 1` each round is saved, and
clients at rest are gone. The goals: a size in the cluster within 1.3 times of that size in one process, and memory that
does not grow with rounds. Fewer clients would be no measure: they come again, and a sample's first visit takes longer
to code than later ones.
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
from time import perf_counter, process_time

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
    from splitcom.server.observe import Observer
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
    asked, saving = 0.0, []

    class Saves(Observer):
        def on_saved(self, round_index: int) -> None:
            saving.append(process_time() - asked)

    started, memory_mb = perf_counter(), []
    texts, parts = load_texts(config), load_parts(config)
    before_mb = _peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(config, texts, parts, Path(folder), Saves())
        lines = simulation.federation.run()
        next(lines)  # clients have joined
        joined, computed = perf_counter(), _computed_s()
        steps = 0
        for of_round in lines:
            steps += sum(line["steps"] for line in of_round)
            memory_mb.append(_memory_mb())
            print(f"round {len(memory_mb)}: {memory_mb[-1]:,.0f} MB", file=sys.stderr, flush=True)
            asked = process_time()  # what the server does next is to save
        seconds, computing = perf_counter() - joined, _computed_s() - computed
        simulation.close()
    return {
        "set-up s": joined - started,
        "steps": steps,
        "ms per client-step": 1e3 * seconds / steps,
        "ms of computing per client-step": 1e3 * computing / steps,
        "s of the last save": saving[-1],
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


def show(medians: dict[tuple[int, str], dict[str, float]], column: str) -> None:
    """A line for each; the ratio is to the same clients in one process, or else to the fewest."""
    print(
        f"{'clients':>8} {'engine':>7} {'steps':>7} {'ms/client-step':>15} {'ratio':>6} {'set-up s':>9} {'peak MB':>8} "
        f"{'MB at 1/3':>10} {'MB at end':>10} {'save s':>7}"
    )
    has_ray = any(engine == "ray" for _, engine in medians)
    for (size, engine), run in medians.items():
        least = medians[size, "local"] if has_ray else next(iter(medians.values()))
        print(
            f"{size:8} {engine:>7} {run['steps']:7.0f} {run[column]:15.1f} {run[column] / least[column]:6.2f} "
            f"{run['set-up s']:9.1f} {run['peak MB']:8.0f} {run['MB after a third of the rounds']:10.0f} "
            f"{run['MB after the last']:10.0f} {run['s of the last save']:7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="3,30,300,3000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="ray: each size also in a cluster"
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
    engines = ["local"] if arguments.engine == "local" else ["local", "ray"]
    found: dict[tuple[int, str], list[dict[str, float]]] = {
        (size, engine): [] for size in sizes for engine in engines
    }
    for _ in range(arguments.repeats):
        for size, engine in found:
            command = [sys.executable, __file__, "--one", str(size), "--engine", engine]
            command += ["--active", str(arguments.active)]
            for option in ("rounds", "every"):
                value = getattr(arguments, option)
                command += [] if value is None else [f"--{option}", str(value)]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[size, engine].append(json.loads(run.stdout))
    medians = {
        of: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for of, runs in found.items()
    }
    column = "ms per client-step" if arguments.engine == "local" else "ms of computing per client-step"
    show(medians, column)
    if arguments.out:
        results = [{"clients": size, "engine": engine} | run for (size, engine), run in medians.items()]
        arguments.out.write_text(json.dumps({"cores": os.cpu_count(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
