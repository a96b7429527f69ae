"""Rate, loss and recovered tokens under noise: a line for each strength of noise and codec of activations.

    python experiments/privacy.py experiments/privacy_gpt2_6m.toml OUT [--seconds 440]

Noise of each number, in units of the root mean square of the hidden states' numbers; the codec's step follows it, as
bits that are finer than the noise are wasted. Each point is a run with `client.privacy` and an audit of it; what is
done is kept in OUT, and a point is not begun when the seconds are over, so that it can be called until it says "done".
Needs the extra `privacy`. Printed: bits a number upwards at the cut, held-out loss, recovered tokens of one visit and
of the mean over all visits (dictionary, inverter), epsilon of a vector and of a sample.
"""

import argparse
import json
import shutil
import time
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from splitcom import Config
from splitcom.durable import write_atomic
from splitcom.methods.audit import AuditOptions, audit
from splitcom.methods.run import configured, train
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts, with_chat

NOISES = (0.0, 1.0, 4.0, 0.5, 2.0, 8.0)
STEPS = (None, 1.0, 2.0)  # of the noise; None: fp16
CODEC = "predict > klt > uniform({:.3g}, first=0) > range"
PLAIN_STEP = 0.7
GRADIENTS = "predict(window=0, rank=0) > klt(threshold=0.7, centre=sum) > uniform(2.5) > range"
OPTIONS = AuditOptions(samples=6, tokens=32, candidates=48)


def points() -> list[tuple[float, float | None]]:
    """Noise and step, the most telling first."""
    return [(noise, step) for step in (1.0, None, 2.0) for noise in NOISES if noise or step in (1.0, None)]


@torch.no_grad()
def norms(config: Config) -> tuple[float, float]:
    """Of the base front's hidden states: the norm that nine of ten stay below, and a number's root mean square."""
    config = with_chat(configured(config))
    front = load_parts(config).front.eval()
    found = []
    for sample in load_texts(config).train.samples[:16]:
        ids = sample.input_ids[None]
        found.append(front(ids, torch.ones_like(ids))[0].float().norm(dim=1))
    every = torch.cat(found)
    width = front.model.config.get_text_config().hidden_size
    return float(every.quantile(0.9)), float(every.median()) / sqrt(width)


def settings(noise: float, step: float | None, scale: tuple[float, float]) -> dict[str, Any]:
    clip, spread = scale
    relative = step * noise / sqrt(1 + noise**2) if step and noise else PLAIN_STEP
    codec = "fp16" if step is None else CODEC.format(relative)
    changes: dict[str, Any] = {"flows.activation_up.codec": codec, "flows.gradient_down.codec": GRADIENTS}
    if noise:
        changes["client.privacy"] = f"gaussian({noise * spread / clip:.6g}, clip={clip:.6g})"
    return changes


def measured(config: Config, out: Path, public: str | None) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    run = train(config, out)
    options = AuditOptions(OPTIONS.samples, OPTIONS.tokens, OPTIONS.candidates, public)
    found = [one for one in audit(run.folder, options) if one.codec not in ("", "fp16")]
    if not found:
        found = [one for one in audit(run.folder, options) if one.codec == "fp16"]
    sent, plain = (run.result[key]["activation_up"] for key in ("bytes", "uncompressed_bytes"))
    shares: dict[str, list[float]] = {}
    for one in found:
        shares.setdefault(one.attack, []).append(one.score.tokens)
    told = run.result.get("privacy", {}).get("activations", {})
    shutil.rmtree(out)
    return {
        "bits": 16 * sent / plain,
        "loss": run.result["eval"]["loss"],
        "initial": run.result["eval"]["initial_loss"],
        "error": found[0].error,
        "dictionary": shares["dictionary"],
        "inverter": shares["inverter"],
        "vector": told.get("vector", {}).get("epsilon"),
        "sample": told.get("sample", {}).get("epsilon"),
        "releases": told.get("sample", {}).get("releases"),
    }


def line(noise: float, step: float | None, point: dict[str, Any]) -> str:
    def text(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    def shares(found: list[float]) -> str:
        return " → ".join(f"{100 * share:.0f}" for share in dict.fromkeys([found[0], found[-1]]))

    codec = "fp16" if step is None else f"step {step if noise else PLAIN_STEP:g}"
    return (
        f"| {noise:g} | {codec} | {point['bits']:.2f} | {point['loss']:.3f} | {shares(point['dictionary'])} | "
        f"{shares(point['inverter'])} | {text(point['vector'])} | {text(point['sample'])} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--public")
    options = parser.parse_args()
    started, slowest = time.monotonic(), 0.0
    config = Config.load(options.config)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "norms.json"
    if not kept.exists():
        write_atomic(kept, json.dumps(norms(config)).encode())
    scale = tuple(json.loads(kept.read_text()))
    for noise, step in points():
        path = options.out / f"noise {noise:g}, step {step}.json"
        if not path.exists():
            begun = time.monotonic()
            if begun - started + slowest > options.seconds:
                print("to be continued")
                return
            point = measured(
                config.override(settings(noise, step, scale)), options.out / "run", options.public
            )
            write_atomic(path, json.dumps(point).encode())
            slowest = max(slowest, time.monotonic() - begun)
        print(line(noise, step, json.loads(path.read_text())), flush=True)
    print("done")


if __name__ == "__main__":
    main()
