"""Recovered tokens by model, cut and codec, before training: a line for each.

    python experiments/audit_cuts.py CONFIG OUT --cuts 1,2,4 [--presets quality,balanced] [--seconds 150]

The inverter learns from the rows of `data.held_out`. What is done is kept in OUT, and a line is not begun when the
seconds are over, so that it can be called until it says "done".
"""

import argparse
import json
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from splitcom import Config
from splitcom.durable import write_atomic
from splitcom.methods.audit import audit
from splitcom.methods.crossing import AuditOptions


def audited(config: Config, path: Path) -> list[dict[str, Any]]:
    """The findings, with the seconds they took under "seconds" of the first."""
    begun = time.process_time()
    path.with_suffix(".toml").write_text(config.to_toml())
    options = AuditOptions(samples=6, tokens=24, candidates=32, public=config.data.held_out)
    found = [asdict(finding) for finding in audit(path.with_suffix(".toml"), options)]
    found[0]["seconds"] = time.process_time() - begun
    return found


def line(cut: int, way: str, found: list[dict[str, Any]]) -> str:
    one, other = found
    names = other["score"]["names"]
    shares = [
        one["score"]["tokens"],
        other["score"]["tokens"],
        other["score"]["rouge_l"],
        *([names] * (names is not None)),
    ]
    return (
        f"| {cut} | {way} | {one['bits']:.2f} | {one['error']:.3f} | "
        + " | ".join(f"{100 * x:.1f} %" for x in shares)
        + " |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cuts", default="1,2,4")
    parser.add_argument("--presets", default="quality,balanced")
    parser.add_argument("--seconds", type=float, default=150)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    config, started = Config.load(options.config), time.monotonic()
    for cut, preset in product(map(int, options.cuts.split(",")), options.presets.split(",")):
        path = options.out / f"cut {cut}, {preset}.json"
        if not path.exists():
            if time.monotonic() - started > options.seconds:
                print("to be continued")
                return
            point = config.override({"model.cut": cut, "preset": preset})
            write_atomic(path, json.dumps(audited(point, path)).encode())
        found = json.loads(path.read_text())
        told = [one for one in found if one["score"]]
        print(
            f"cut {cut}, {preset}: {found[0]['seconds']:.0f} core-seconds; chance {told[1]['score']['tokens']:.3f}"
        )
        print(line(cut, "fp16", told[2:4]))
        print(line(cut, preset, told[4:6]))
        for one in found:
            if one["score"] is None:
                print(f"    {one['codec']}: {one['attack']}: {one['share']:.3f} (chance {one['chance']:.3f})")
    print("done")


if __name__ == "__main__":
    main()
