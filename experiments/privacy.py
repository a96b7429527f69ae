"""Rate, loss and recovered tokens under noise: a line for each strength of noise and codec of activations.

    python experiments/privacy.py experiments/privacy_gpt2_6m.toml OUT [--noises 0,1,4] [--codecs 1,dither]

Noise of each number, in units of the root mean square of the hidden states' numbers. The codec's step follows it, as
bits that are finer than the noise are wasted; "dither" is a codec whose own error is as large. The inverter learns from
held-out rows. Each point is an audit and a run with `client.privacy`; what is done is kept in OUT, and a point is not
begun when `--seconds` are over, so that it can be called until it says "done". Needs the extra `privacy`.

Printed: bits a number upwards at the cut, on first visits and over all; held-out loss of the base model as its hidden
states arrive, after training as they arrive, and of the trained model used without noise; tokens recovered of one visit
and of all (dictionary, inverter), names of all (dictionary), epsilons of a vector and of a sample. OUT/curve.png shows
tokens.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter

from splitcom import Config
from splitcom.codecs import Ragged
from splitcom.durable import write_atomic
from splitcom.methods.audit import audit
from splitcom.methods.crossing import AuditOptions, hidden_of, learnt_of, ways
from splitcom.methods.evaluate import evaluate_run
from splitcom.methods.run import configured, train
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts, with_chat
from splitcom.training.loss import losses_through

NOISES = (0.0, 1.0, 4.0, 0.5, 2.0, 8.0)
Step = float | Literal["fp16", "dither"]  # of the codec, in units of the noise
STEPS: tuple[Step, ...] = (1.0, "fp16", "dither", 2.0)
CODEC = "predict > klt > uniform({:.3g}, first=0) > range"
PLAIN_STEP = 0.7
GRADIENTS = "predict(window=0, rank=0) > klt(threshold=0.7, centre=sum) > uniform(2.5) > range"
OPTIONS = AuditOptions(samples=6, tokens=32, candidates=48, packets=0)


def points(noises: str, codecs: str) -> list[tuple[float, Step]]:
    """Noise and step, the most telling first: of those in these lists, or all."""
    chosen = [noise for noise in NOISES if not noises or noise in map(float, noises.split(","))]
    steps = [step for step in STEPS if not codecs or f"{step}".removesuffix(".0") in codecs.split(",")]
    return [(noise, step) for noise in chosen for step in steps if noise or step in ("fp16", 1.0)]


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


def settings(noise: float, step: Step, scale: tuple[float, float]) -> dict[str, Any]:
    """The codec of activations, and their noise; of dither the step whose error is as large as the noise is both."""
    clip, spread = scale
    if step == "dither":
        codec = f"delta > dither({sqrt(12) * noise * spread:.6g})"
    elif step == "fp16":
        codec = "fp16"
    else:
        codec = CODEC.format(step * noise / sqrt(1 + noise**2) if noise else PLAIN_STEP)
    changes: dict[str, Any] = {"flows.activation_up.codec": codec, "flows.gradient_down.codec": GRADIENTS}
    if step == "dither":  # held-out texts, too, arrive under it, as they do under noise
        changes["evaluation.codec"] = codec
    if noise and step != "dither":
        changes["client.privacy"] = f"gaussian({noise * spread / clip:.6g}, clip={clip:.6g})"
    return changes


def attacked(config: Config) -> dict[str, Any]:
    """What an audit tells before training: bits of a first visit, tokens of one visit and of the mean of all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(config.to_toml())
        every = audit(path, replace(OPTIONS, public=config.data.held_out))
    found = [one for one in every if one.score is not None and one.codec not in ("", "fp16")]
    found = found or [one for one in every if one.codec == "fp16"]
    shares: dict[str, list[float]] = {}
    for one in found:
        if one.score is not None:
            shares.setdefault(one.attack, []).append(one.score.tokens)
    chance = [one.score.tokens for one in every if one.score is not None and not one.codec]
    names = [one.score.names for one in found if one.score is not None]
    return {
        "first": found[0].bits,
        "error": found[0].error,
        "shares": shares,
        "names": names,
        "chance": chance,
        "before": loss_before(config),
    }


@torch.no_grad()
def loss_before(config: Config) -> float:
    """Held-out loss of the base model, nats a label, if its hidden states arrive as those of this run do."""
    config = with_chat(configured(config))
    parts, samples = load_parts(config), load_texts(config).held_out.samples
    for part in parts.all:
        part.eval()
    batch = Ragged(
        torch.cat([hidden_of(parts.front, sample.input_ids) for sample in samples]),
        torch.tensor([len(sample.input_ids) for sample in samples]),
        torch.cat([learnt_of(sample.labels) for sample in samples]),
    )
    arrived, _ = ways(config, "activation_up", OPTIONS)[:2][-1].arrived(batch)
    assert parts.body is not None
    found = [
        losses_through(
            parts.body, row[None], torch.ones_like(sample.labels)[None], sample.labels[None]
        ).losses
        for row, sample in zip(torch.split(arrived.values, batch.lengths.tolist()), samples, strict=True)
    ]
    return float(torch.cat(found).mean())


def trained(config: Config, out: Path) -> dict[str, Any]:
    """What a run tells: bits a number over all visits, held-out loss, epsilons."""
    shutil.rmtree(out / "run", ignore_errors=True)
    result = train(config, out / "run").result
    clean = evaluate_run(out / "run")["loss"]
    shutil.rmtree(out / "run")
    sent, plain = (result[key]["activation_up"] for key in ("bytes", "uncompressed_bytes"))
    told = result.get("privacy", {}).get("activations", {})
    return {
        "bits": 16 * sent / plain,
        "loss": result["eval"]["loss"],
        "clean": clean,
        "initial": result["eval"]["initial_loss"],
        "vector": told.get("vector", {}).get("epsilon"),
        "sample": told.get("sample", {}).get("epsilon"),
        "releases": told.get("sample", {}).get("releases"),
    }


def line(noise: float, step: Step, point: dict[str, Any]) -> str:
    def text(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    def shares(attack: str) -> str:
        found = point["shares"][attack]
        return " → ".join(f"{100 * share:.0f}" for share in dict.fromkeys([found[0], found[-1]]))

    codec = step if isinstance(step, str) else f"step {step if noise else PLAIN_STEP:g}"
    cells = [f"{noise:g}", codec, f"{point['first']:.2f}", text(point.get("bits"))]
    cells += [f"{point['before']:.3f}", text(point.get("loss")), text(point.get("clean"))]
    cells += [shares("dictionary"), shares("inverter"), f"{100 * (point['names'][-1] or 0):.0f}"]
    cells += [text(point.get("vector")), text(point.get("sample"))]
    return f"| {' | '.join(cells)} |"


LINES: dict[Step, str] = {
    1.0: "noise, step as large",
    2.0: "noise, step twice as large",
    "fp16": "noise, fp16",
    "dither": "dither",
}


def draw(done: Mapping[tuple[float, Step], dict[str, Any]], path: Path) -> None:
    """Tokens that the better attack recovers from all visits, against bits and against loss; a line for each codec."""
    labels = {"first": "bits a number, first visit", "before": "held-out loss, base model"}
    if any("clean" in point for point in done.values()):
        del labels["before"]
        labels |= {"loss": "held-out loss, trained", "clean": "the same, used without noise"}
    figure = Figure(figsize=(3.6 * len(labels), 3.8), layout="constrained")
    panels = figure.subplots(1, len(labels), sharey=True)
    chance = max(next(iter(done.values()))["chance"])
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        for place, (step, name) in enumerate(LINES.items()):
            some = sorted(
                (noise, one[key], best(one))
                for (noise, own), one in done.items()
                if own == step and key in one
            )
            if some:
                axes.plot(*list(zip(*some, strict=True))[1:], "o-", color=f"C{place}", label=name)
            for noise, x, y in some:
                axes.annotate(
                    f"{noise:g}", (x, y), (5, 4), textcoords="offset points", fontsize=8, color=f"C{place}"
                )
        axes.axhline(
            chance, color="grey", linestyle=":", linewidth=1, label="the commonest token at each place"
        )
        axes.set_xlabel(label)
    panels[0].set(xscale="log", ylabel="tokens recovered from all visits", ylim=(0, 1.05))
    panels[0].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panels[0].xaxis.set_minor_formatter(NullFormatter())  # they would run into one another
    panels[0].yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].xaxis.set_major_formatter("{x:g}")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle("Each point's number is its noise, in units of the hidden states'", fontsize=9)
    figure.savefig(path, dpi=130)


def best(point: dict[str, Any]) -> float:
    """The share of tokens that the better attack on all visits recovers."""
    return max(found[-1] for found in point["shares"].values())


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What has been found, or is found now."""
    if not path.exists():
        write_atomic(path, json.dumps(make()).encode())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--noises", default="", help="some of 0, 0.5, 1, 2, 4, 8; without, all")
    parser.add_argument(
        "--codecs", default="", help="some of 1, 2 (step over noise), fp16, dither; without, all"
    )
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--audit-only", action="store_true", help="train nothing")
    options = parser.parse_args()
    started, slowest = time.monotonic(), 0.0
    config, out = Config.load(options.config), options.out
    out.mkdir(parents=True, exist_ok=True)
    scale = kept(out / "norms.json", lambda: dict(zip(("clip", "spread"), norms(config), strict=True)))
    done: dict[tuple[float, Step], dict[str, Any]] = {}
    for noise, step in points(options.noises, options.codecs):
        begun = time.monotonic()
        if begun - started + slowest > options.seconds:
            print("to be continued")
            break
        point = config.override(settings(noise, step, (scale["clip"], scale["spread"])))
        name = f"noise {noise:g}, step {step}"
        found = kept(out / f"{name}, attacked.json", partial(attacked, point))
        if not options.audit_only:
            found |= kept(out / f"{name}, trained.json", partial(trained, point, out))
        slowest = max(slowest, time.monotonic() - begun)
        done[noise, step] = found
        print(line(noise, step, found), flush=True)
    else:
        print("done")
    draw(done, out / "curve.png")


if __name__ == "__main__":
    main()
