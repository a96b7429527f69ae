"""Several methods on the same data over several seeds: run what is missing, collect the results."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitcom.config import Config, VariantConfig
from splitcom.durable import write_atomic
from splitcom.errors import ConfigError
from splitcom.methods.identity import Identities
from splitcom.methods.run import configured, train
from splitcom.server.observe import Observer

ObserversOf = Callable[[str, int], Sequence[Observer]]
"""Who watches the run of a variant with a seed."""


def variants_of(config: Config, methods: Iterable[str] = ()) -> list[VariantConfig]:
    """What a comparison runs: `methods` as they are or, where none is named, the configuration's own variants."""
    chosen = [VariantConfig(name=method, method=method) for method in methods] or config.comparison.variants
    if not chosen:
        raise ConfigError(
            "comparison.variants is empty: list there what to compare, or give --methods, such as splitlora,splitcom"
        )
    names = [variant.name for variant in chosen]
    if len(set(names)) < len(names):
        raise ConfigError(f"comparison.variants: names must differ, found {', '.join(names)}")
    return list(chosen)


@dataclass(frozen=True)
class Planned:
    """One run of a comparison; `folder` is where it goes."""

    variant: VariantConfig
    config: Config
    folder: Path


def plan(
    config: Config,
    out: Path,
    methods: Iterable[str] = (),
    seeds: Iterable[int] = (),
    cache: Path | None = None,
) -> list[Planned]:
    """Every variant with every seed, its configuration checked; folders below `out`, by name.

    With `cache`, folders below that one, by what is run (see `Identities`): comparisons that share it share their runs.
    """
    planned, identities = [], Identities()
    for seed in list(seeds) or config.comparison.seeds:
        for variant in variants_of(config, methods):
            changes = {
                **variant.set,
                "method": variant.method or config.method,
                "seed": seed,
                "comparison": {},
            }
            run_config = configured(config.override(changes))
            folder = out / f"{_slug(variant.name)}-seed{seed}"
            if cache is not None:
                folder = cache / identities.of(run_config)
            planned.append(Planned(variant, run_config, folder))
    return planned


def write_comparison(
    out: Path, planned: Iterable[Planned], results: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Write comparison.json of finished runs, and return its content."""
    runs = [
        {
            "folder": Path(os.path.relpath(run.folder, out)).as_posix(),
            "result": {**result, "label": run.variant.name, "group": run.variant.group},
        }
        for run, result in zip(planned, results, strict=True)
    ]
    comparison = {"runs": runs}
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(
        out / "comparison.json", (json.dumps(comparison, indent=1, ensure_ascii=False) + "\n").encode()
    )
    return comparison


def compare(
    config: Config,
    out: str | Path,
    *,
    methods: Iterable[str] = (),
    seeds: Iterable[int] = (),
    observers_of: ObserversOf = lambda variant, seed: (),
) -> dict[str, Any]:
    """Run every variant with every seed into folders below `out`; write comparison.json and return its content.

    A run that has ended with the same configuration is not run again. One that was interrupted is continued. All
    configurations are checked before the first run starts.

    Args:
        config: the settings that all runs share; `comparison.variants` and `comparison.seeds` say what differs.
        out: the folder of the comparison.
        methods: names of methods, in place of the variants.
        seeds: in place of those of the configuration.
        observers_of: takes a variant's name and a seed, and gives the observers of that run.

    Raises ConfigError, RunError, and what `splitcom.train` raises.
    """
    planned = plan(config, Path(out), methods, seeds)
    results = [go_on(run, observers_of(run.variant.name, run.config.seed)) for run in planned]
    return write_comparison(Path(out), planned, results)


def go_on(run: Planned, observers: Sequence[Observer] = ()) -> dict[str, Any]:
    """Run what is left of a planned run; its result."""
    started = (run.folder / "config.toml").exists()
    return train(run.config, run.folder, resume=started, label=run.variant.name, observers=observers).result


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
