"""Loss against the share of hostile clients, by attack and defence: runs what is missing, then prints a table for each.

    python experiments/poison.py experiments/poison.toml --out runs/poison [--hostile 1 2 3] [--seed 0] [--only TEXT]
    python experiments/poison.py experiments/poison.toml --out runs/poison --tables [--plot poison.svg]

Each run is a line of runs.jsonl in the folder; a run that has one is not done again. A hostile client is a real one
that changes what it sends of a round, or what its front gives. It is well-formed: nothing of it is refused. `--limit`
ends after so many seconds, between two runs.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

from splitcom import Config
from splitcom.client.client import Trainer
from splitcom.client.wrapper import Wrapper
from splitcom.errors import SplitComError
from splitcom.methods.run import configured, train
from splitcom.parties import build
from splitcom.settings.tree import parse_assignment

RUNS = "runs.jsonl"
NONE = "none"


class OfAdapter(Wrapper):
    """Sends what `change` makes of the adapter before and after its round."""

    def __init__(self, inner: Trainer, name: str, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(inner, name)
        self._change = change

    def train(self, local):
        """Train as others do, and change what has come of it."""
        before = self.adapter()
        summary = yield from super().train(local)
        torch.manual_seed(local.index)
        after = self.adapter()
        self.load_adapter({name: self._change(before[name], after[name]) for name in after})
        return summary


class Lying(nn.Module):
    """A front that sends what `change` makes of its own hidden states; None: those of another text."""

    def __init__(self, front: nn.Module, change: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self._front = front
        self._change = change

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [batch, tokens, hidden] that are not those of `input_ids`."""
        if not self.training:  # held-out samples are as they are, so that losses can be compared
            return self._front(input_ids, mask)
        if self._change is None:
            other = torch.randint_like(input_ids, int(input_ids.max()) + 1)
            return self._front(other, mask)
        return self._change(self._front(input_ids, mask))


def lying(change: Callable[[Tensor], Tensor] | None) -> Callable[[Trainer, str], Trainer]:
    """What makes such a client of an honest one."""

    def make(trainer: Trainer, name: str) -> Trainer:
        trainer._front = Lying(trainer._front, change)
        return trainer

    return make


def adapter(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Trainer, str], Trainer]:
    """What makes such a client of an honest one."""
    return lambda trainer, name: OfAdapter(trainer, name, change)


ATTACKS = {
    "adapter × 1000": adapter(lambda before, after: after * 1000),
    "sign flipped": adapter(lambda before, after: before - (after - before)),
    "sign flipped × 5": adapter(lambda before, after: before - 5 * (after - before)),
    "Gaussian noise": adapter(lambda before, after: torch.randn_like(after)),
    "activations of random text": lying(None),
    "random activations": lying(lambda hidden: hidden * 0 + torch.randn_like(hidden) * hidden.detach().std()),
}
DEFENCES: dict[str, dict[str, object]] = {
    "fedavg, no limit": {"federation.max_update_ratio": None},
    "fedavg (default)": {},
    "trimmed_mean(0.3)": {"federation.aggregator": "trimmed_mean(0.3)"},
    "median": {"federation.aggregator": "median"},
    "krum(0.3)": {"federation.aggregator": "krum(0.3)"},
    "multi_krum(0.3)": {"federation.aggregator": "multi_krum(0.3)"},
    "median, gradients ≤ 1 ×": {"federation.aggregator": "median", "federation.max_gradient_ratio": 1.0},
}


def run(config: Config, attack: str, hostile: int) -> dict[str, Any]:
    """The outcome of a run in which the last `hostile` clients are."""
    names = set(config.client_names[config.federation.clients - hostile :])
    honest = build.wrapped

    def wrapped(trainer: Trainer, name: str, *given: Any) -> Trainer:
        return ATTACKS[attack](trainer, name) if name in names else honest(trainer, name, *given)

    build.wrapped = wrapped
    began = process_time()
    try:
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = train(config, Path(folder) / "run").result
            except SplitComError as error:  # numbers beyond what can be sent
                return {"loss": None, "ended": str(error), "seconds": round(process_time() - began, 1)}
            written = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    finally:
        build.wrapped = honest
    lines = [json.loads(line) for line in written.splitlines()]
    loss = {line["round"]: line["eval_loss"] for line in lines}
    told = {
        f"{line['round']} {line['client']}": line["against_others"]
        for line in lines
        if "against_others" in line
    }
    return {
        "before": result["eval"]["initial_loss"],
        "loss": result["eval"]["loss"],
        "by_round": loss,
        "seconds": round(process_time() - began, 1),
        "against_others": told,
    }


def planned(hostile: list[int], seeds: list[int]) -> list[tuple[str, int, str, int]]:
    """Attack, number of hostile clients, defence and seed of every run; what tells most comes first."""
    clean = [(NONE, 0, defence, seed) for seed in seeds for defence in DEFENCES]
    attacked = [
        (attack, count, defence, seed)
        for seed in seeds
        for count in hostile
        for defence in DEFENCES
        for attack in ATTACKS
    ]
    return clean + sorted(attacked, key=lambda one: _tells_little(one[0], one[2]))


def _tells_little(attack: str, defence: str) -> int:
    """What can wait: a defence against something else than this attack most, one that is much like another less."""
    of_body = "activations" in attack
    if (
        defence in ("fedavg, no limit", "median", "trimmed_mean(0.3)", "krum(0.3)")
        if of_body
        else "gradients" in defence
    ):
        return 2
    return int(defence in ("trimmed_mean(0.3)", "krum(0.3)"))


def tables(found: dict[tuple[str, int, str, int], dict[str, Any]]) -> None:
    """Print a table for each attack: rows are defences, columns the number of hostile clients."""
    counts = sorted({key[1] for key in found})
    for attack in ATTACKS:
        print(f"\n**{attack}**\n")
        print("| defence | " + " | ".join(map(str, counts)) + " |")
        print("| --- |" + " ---: |" * len(counts))
        for defence in DEFENCES:
            cells = []
            for count in counts:
                losses = [
                    outcome["loss"]
                    for (a, c, d, _), outcome in found.items()
                    if c == count and d == defence and a == (attack if count else NONE)
                ]
                cells.append(_cell(losses))
            print(f"| {defence} | " + " | ".join(cells) + " |")
    before = [outcome["before"] for outcome in found.values() if "before" in outcome]
    print(
        f"\nbefore training: {mean(before):.3f}; {median([o['seconds'] for o in found.values()]):.0f} s a run"
    )


def _cell(losses: list[float | None]) -> str:
    """The mean; a run that could not go on has none."""
    if not losses:
        return ""
    return "the run ends" if None in losses else f"{mean(losses):.3f}"


def plot(found: dict[tuple[str, int, str, int], dict[str, Any]], path: Path) -> None:
    """Draw a panel for each attack."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "splitcom"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.2), sharex=True, layout="constrained")
    losses: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for (attack, count, defence, _), outcome in found.items():
        for panel in ATTACKS if attack == NONE else [attack]:
            if outcome["loss"] is not None:
                losses[panel, defence, count].append(outcome["loss"])
    for axis, attack in zip(axes.flat, ATTACKS, strict=True):
        for index, defence in enumerate(DEFENCES):
            points = sorted((c, mean(v)) for (a, d, c), v in losses.items() if (a, d) == (attack, defence))
            if not points:
                continue
            axis.plot(*zip(*points, strict=True), marker="osv^D<>Xp"[index], ms=4, lw=1.2, label=defence)
        axis.set_title(attack, fontsize=10)
        axis.set_xticks(range(4))
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
    for axis in axes[:, 0]:
        axis.set_ylabel("held-out loss, nats per token")
    for axis in axes[1]:
        axis.set_xlabel("hostile clients of 10")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--hostile", type=int, nargs="+", default=[3, 1, 2])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default="", help="of attack and defence")
    parser.add_argument("--limit", type=float, default=float("inf"))
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    base = Config.load(given.config, dict(map(parse_assignment, given.set)))
    given.out.mkdir(parents=True, exist_ok=True)
    path, started = given.out / RUNS, perf_counter()
    found = {tuple(key): outcome for key, outcome in map(json.loads, path.open())} if path.exists() else {}
    for attack, count, defence, seed in [] if given.tables else planned(given.hostile, given.seed):
        key = (attack, count, defence, seed)
        if key in found or given.only not in f"{attack} {defence}":
            continue
        if perf_counter() - started > given.limit:
            return
        config = configured(base.override(DEFENCES[defence] | {"seed": seed}))
        found[key] = run(config, attack, count)
        with path.open("a") as file:
            file.write(json.dumps([key, found[key]]) + "\n")
        print(f"{key}: {found[key]['loss']} in {found[key]['seconds']:.0f} s", flush=True)
    tables(found)
    if given.plot is not None:
        plot(found, given.plot)


if __name__ == "__main__":
    main()
