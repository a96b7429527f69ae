"""Mean and spread over the seeds of each method; knows nothing of how they are shown."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from splitcom.flows import AT_CUT
from splitcom.report.folder import Evaluation, Result

BASELINE = "splitlora"


@dataclass(frozen=True)
class Measure:
    """Mean over seeds and their sample standard deviation (None for a single seed)."""

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Measure":
        """Summarise one value or more."""
        numbers = [float(value) for value in values]
        if not all(map(math.isfinite, numbers)):  # a run diverged
            return cls(sum(numbers) / len(numbers), math.nan if len(numbers) > 1 else None)
        return cls(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)

    @classmethod
    def of_known(cls, values: Iterable[float | None]) -> "Measure | None":
        """Summarise the values that exist; None if there is none."""
        known = [value for value in values if value is not None]
        return cls.of(known) if known else None


@dataclass(frozen=True)
class Row:
    """A method in a comparison: losses in nats per token (classes: sample), sizes in bytes, ratios as fractions.

    `share` is the part of uncompressed SplitLoRA's traffic, or, if that was not run, of what the
    same run would send with fp16 flows. `cut` is the part of what the run itself would send of the flows at the cut
    with fp16, None if nothing is cut. `change` is the held-out loss against SplitLoRA's of the same seed. Both
    look at the SplitLoRA of the row's group alone.
    """

    label: str
    method: str
    seeds: tuple[int, ...]
    loss: Measure
    best_loss: Measure
    perplexity: Measure
    change: Measure | None
    best_change: Measure | None
    up: Measure
    down: Measure
    total: Measure
    evaluation: Measure
    share: Measure | None
    cut: Measure | None
    bleu: Measure | None
    accuracy: Measure | None
    saving: Measure
    wall: Measure
    virtual: Measure


def pareto_front(rows: Iterable[Row]) -> list[Row]:
    """The rows that no other beats in both bytes and loss, from the least bytes to the lowest loss."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.total.mean, row.loss.mean)):
        if math.isfinite(row.loss.mean) and (not front or row.loss.mean < front[-1].loss.mean):
            front.append(row)
    return front


def group(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Collect the results of each label, in the order in which the labels first occur."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.label, []).append(result)
    return groups


def summarise(results: Sequence[Result]) -> list[Row]:
    """Give a row per label, in the order in which the labels first occur.

    If a group has several variants of uncompressed split training, the first is what all are compared with.
    """
    baselines: defaultdict[str, dict[int, Result]] = defaultdict(dict)
    for result in results:
        if result.method == BASELINE:
            baselines[result.group].setdefault(result.seed, result)
    return [_row(label, members, baselines[members[0].group]) for label, members in group(results).items()]


def _row(label: str, members: list[Result], baseline: dict[int, Result]) -> Row:
    def measure(value: Callable[[Result], float]) -> Measure:
        return Measure.of(map(value, members))

    # The mean over the seeds, as a seed of a method need not have its counterpart.
    whole = statistics.fmean(result.bytes["total"] for result in baseline.values()) if baseline else None

    def share(result: Result) -> float | None:
        denominator = result.uncompressed_bytes["total"] if whole is None else whole
        return result.bytes["total"] / denominator if denominator else None

    def cut(result: Result) -> float | None:
        sent, whole = (
            sum(sizes.get(flow, 0) for flow in AT_CUT) for sizes in (result.bytes, result.uncompressed_bytes)
        )
        return sent / whole if whole else None

    def change(loss: Callable[[Evaluation], float]) -> Measure | None:
        pairs = [(result, baseline.get(result.seed)) for result in members]
        return Measure.of_known(
            None if same_seed is None else loss(result.eval) / loss(same_seed.eval) - 1
            for result, same_seed in pairs
        )

    return Row(
        label=label,
        method=members[0].method,
        seeds=tuple(result.seed for result in members),
        loss=measure(lambda result: result.eval.loss),
        best_loss=measure(lambda result: result.eval.best_loss),
        perplexity=measure(lambda result: result.eval.perplexity),
        change=change(lambda found: found.loss),
        best_change=change(lambda found: found.best_loss),
        up=measure(lambda result: result.bytes["up"]),
        down=measure(lambda result: result.bytes["down"]),
        total=measure(lambda result: result.bytes["total"]),
        evaluation=measure(lambda result: result.bytes.get("evaluation", 0)),
        share=Measure.of_known(map(share, members)),
        cut=Measure.of_known(map(cut, members)),
        accuracy=Measure.of_known(result.eval.accuracy for result in members),
        bleu=Measure.of_known(None if result.text is None else result.text.bleu for result in members),
        saving=measure(lambda result: result.saving["total"]),
        wall=measure(lambda result: result.seconds.wall),
        virtual=measure(lambda result: result.seconds.virtual),
    )
