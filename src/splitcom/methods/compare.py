"""Several methods on the same data over several seeds: run what is missing, collect the results."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from splitcom.config import Config, VariantConfig
from splitcom.errors import ConfigError
from splitcom.federation.observe import Observer
from splitcom.methods.run import configured, train
from splitcom.metrics.record import write_atomic

ObserverOf = Callable[[str, int], Observer]


def variants_of(config: Config, methods: Iterable[str] = ()) -> list[VariantConfig]:
    """What a comparison runs: `methods` as they are or, where none is named, the configuration's own variants."""
    chosen = [VariantConfig(name=method, method=method) for method in methods] or config.comparison.variants
    if not chosen:
        raise ConfigError("comparison.variants is empty: name some there, or give --methods")
    names = [variant.name for variant in chosen]
    if len(set(names)) < len(names):
        raise ConfigError(f"comparison.variants: names must differ, found {', '.join(names)}")
    return list(chosen)


def compare(
    config: Config,
    out: str | Path,
    *,
    methods: Iterable[str] = (),
    seeds: Iterable[int] = (),
    observer_of: ObserverOf | None = None,
) -> dict[str, Any]:
    """Run every variant with every seed into folders below `out`, and write and return comparison.json.

    A run that has ended with the same configuration is not run again, one that was interrupted is continued. All
    configurations are checked before the first run starts.
    """
    variants = variants_of(config, methods)
    plan = [
        (variant.name, seed, _variant_config(config, variant, seed))
        for seed in (list(seeds) or config.comparison.seeds)
        for variant in variants
    ]
    folder = Path(out)
    runs = []
    for name, seed, run_config in plan:
        run_folder = f"{_slug(name)}-seed{seed}"
        path = folder / run_folder
        observer = observer_of(name, seed) if observer_of else None
        started = (path / "config.toml").exists()
        run = train(run_config, path, resume=started, label=name, observer=observer)
        runs.append({"folder": run_folder, "result": run.result})
    comparison = {"runs": runs}
    text = json.dumps(comparison, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / "comparison.json", text.encode())
    return comparison


def _variant_config(config: Config, variant: VariantConfig, seed: int) -> Config:
    changes = {**variant.set, "method": variant.method, "seed": seed, "comparison": {}}
    return configured(config.override(changes))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
