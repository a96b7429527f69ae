"""Draws the plots of runs and comparisons as SVG or PNG; loads matplotlib, but never pyplot or a display."""

import io
import math
import re
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TypeVar

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from splitcom.errors import RunError
from splitcom.flows import AT_CUT, FLOWS
from splitcom.report.colour import CURVE, INK, LabelStyle, client_colour, flow_colour, label_styles
from splitcom.report.folder import ClientRound, Comparison, Run
from splitcom.report.format import format_bytes, format_percent
from splitcom.report.summary import Row, group, pareto_front, summarise

# Small figures with large type: a phone shows them at 0.8, a desktop two beside one another at 1.2.
_WIDTH_IN = 4.8
_MAX_NAMED_CLIENTS = 7  # as many as have a colour of their own
_MAX_MARKED_POINTS = 30
_SERIES = "series:"
_SKIPS = "skipped samples"
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "text.parse_math": False,  # labels are the user's text
}

SubjectT = TypeVar("SubjectT", Run, Comparison)


def render_svg(draw: Callable[[SubjectT], Figure], subject: SubjectT, description: str) -> str:
    """Draw an `<svg>` element for a page of HTML: as wide as its place, inked in the page's text colour."""
    buffer = io.StringIO()
    # The salt makes ids reproducible, and different between the plots of one page.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": description}):
        draw(subject).savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The page's script finds a method's marks by name; other ids repeat between plots, and nothing refers to them.
    svg = re.sub(rf'<g id="{_SERIES}([^"]*)"', r'<g data-series="\1"', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def render_png(draw: Callable[[SubjectT], Figure], subject: SubjectT) -> bytes:
    """Draw a PNG on white at 200 dots per inch."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        draw(subject).savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def plot(run: Run, what: str) -> Figure:
    """One of the plots of a run, by the names that `Run.plot` of the public API has; raises RunError as that does."""
    has_codecs = bool(decided(run))
    drawings: dict[str, Callable[[Run], Figure]] = {
        "loss": loss_against_bytes,
        "bytes": bytes_by_round,
        "training": training_loss,
        **({"codecs": codec_decisions} if has_codecs else {}),
        **({"accuracy": accuracy} if run.result.eval.accuracy is not None else {}),
    }
    if what not in drawings:
        raise RunError(f"{run.folder}: no plot {what!r} of this run; there are {', '.join(drawings)}")
    with matplotlib.rc_context(_STYLE):
        return drawings[what](run)


# --- one run ---


def loss_against_bytes(run: Run) -> Figure:
    """Held-out loss against all bytes sent so far, or against rounds where nothing is sent."""
    figure, axes = _figure(2.9)
    sent, losses = loss_curve(run)
    losses = [run.result.eval.initial_loss, *losses]
    if any(sent):
        axes.plot([0, *sent], losses, marker=_marker(len(losses)), color=CURVE)
        axes.set_xlabel("bytes sent, up and down")
        _bytes_axis(axes.xaxis)
    else:
        axes.plot(range(len(losses)), losses, marker=_marker(len(losses)), color=CURVE)
        _round_axis(axes, range(len(losses)))
    axes.set_ylabel(f"held-out loss, {run.result.eval.unit}")
    return figure


def bytes_by_round(run: Run) -> Figure:
    """Bytes of each flow in each round, stacked; round 0 is what is sent before training."""
    figure, axes = _figure(3.4)
    rounds = _by_round(run.metrics, first=0)
    base = [0.0] * len(rounds)
    for flow in FLOWS:
        height = [float(sum(line.bytes.get(flow, 0) for line in lines)) for lines in rounds.values()]
        if any(height):
            axes.bar(list(rounds), height, 0.8, bottom=base, color=flow_colour(flow), label=flow)
            base = [below + own for below, own in zip(base, height, strict=True)]
    _round_axis(axes, rounds)
    _bytes_axis(axes.yaxis)
    axes.grid(axis="x", visible=False)
    _legend(figure, columns=2)
    return figure


def codec_decisions(run: Run) -> Figure:
    """Thresholds, steps and skipped samples over the rounds, averaged over clients, per flow; a panel for each."""
    rounds = _by_round(run.metrics)
    panels = decided(run)
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + 1.5 * len(panels)), layout="constrained")
    places = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, flows) in zip(places, panels.items(), strict=True):
        field = "skip_ratio" if name == _SKIPS else "threshold"
        for flow in flows:
            values = [_mean(getattr(line, field).get(flow) for line in lines) for lines in rounds.values()]
            axes.plot(list(rounds), values, marker=_marker(len(values)), color=flow_colour(flow), label=flow)
        axes.set_ylabel(name)
        if name == _SKIPS:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _round_axis(places[-1], rounds)
    _legend(figure, columns=2)
    return figure


def decided(run: Run) -> dict[str, list[str]]:
    """The flows that have thresholds, steps or skips to show, by what it is; a codec without a gate never skips."""
    trained = [line for line in run.metrics if line.round > 0]
    found: defaultdict[str, list[str]] = defaultdict(list)
    for flow in AT_CUT:
        knob = run.knob(flow)
        if knob is not None and any(line.threshold.get(flow) is not None for line in trained):
            found[knob].append(flow)
        if knob == "threshold" or any(line.skip_ratio.get(flow) for line in trained):
            found[_SKIPS].append(flow)
    shown = {flow for line in trained for flow in line.skip_ratio}
    found[_SKIPS] = [flow for flow in found[_SKIPS] if flow in shown]
    return {name: found[name] for name in ("threshold", "step", _SKIPS) if found[name]}


def accuracy(run: Run) -> Figure:
    """Held-out accuracy over the rounds, of classes."""
    figure, axes = _figure(2.6)
    rounds = _by_round(run.metrics, first=0)
    values = [_mean(line.eval_accuracy for line in lines) for lines in rounds.values()]
    axes.plot(list(rounds), values, marker=_marker(len(values)), color=CURVE)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("held-out accuracy")
    _round_axis(axes, rounds)
    return figure


def training_loss(run: Run) -> Figure:
    """Training loss of each client over the rounds, beside the held-out loss of the averaged model."""
    figure, axes = _figure(3.2)
    rounds = _by_round(run.metrics)
    clients = list(dict.fromkeys(line.client for lines in rounds.values() for line in lines))
    named = len(clients) <= _MAX_NAMED_CLIENTS
    for place, client in enumerate(clients):
        lines = [line for of_round in rounds.values() for line in of_round if line.client == client]
        numbers = [line.round for line in lines]
        losses = [math.nan if line.loss is None else line.loss for line in lines]
        if named:
            mark, colour = _marker(len(lines)), client_colour(place)
            axes.plot(
                numbers,
                losses,
                marker=mark,
                color=colour,
                label=f"client {client}" if isinstance(client, int) else client,
            )
        else:  # a cloud with one entry in the legend
            label = None if place else f"{len(clients)} clients"
            axes.plot(numbers, losses, color=CURVE, alpha=0.3, label=label)
    evaluated = _by_round(run.metrics, first=0)
    held_out = [_mean(line.eval_loss for line in lines) for lines in evaluated.values()]
    axes.plot(
        list(evaluated),
        held_out,
        marker=_marker(len(held_out), "."),
        color=INK,
        linestyle="--",
        label="held-out",
    )
    _round_axis(axes, evaluated)
    axes.set_ylabel(f"loss, {run.result.eval.unit}")
    _legend(figure, columns=3)
    return figure


# --- a comparison ---


def loss_plane(comparison: Comparison) -> Figure:
    """Held-out loss against bytes sent: the way of every run above, mean and spread of the ends below."""
    rows = summarise([run.result for run in comparison.runs])
    styles = label_styles(rows)
    figure = Figure(figsize=(_WIDTH_IN, 5.2 + 0.2 * len(rows)), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for run in comparison.runs:
        sent, losses = loss_curve(run)
        if sent and sent[0] > 0:
            colour, gid = styles[run.result.label].colour, _SERIES + run.result.label
            upper.plot(sent, losses, color=colour, linewidth=1.2, alpha=0.8, gid=gid)
    ends = {row.label: _draw_end(upper, lower, row, styles[row.label]) for row in rows}
    upper.set_title("during training, each seed")
    lower.set_title("at the end, mean and spread; dotted: Pareto front")
    lower.set_xlabel("bytes sent, up and down (logarithmic)")
    figure.supylabel(f"held-out loss, {comparison.runs[0].result.eval.unit}", fontsize=10)
    _log_bytes_axis(lower)
    front = pareto_front(row for row in rows if row.total.mean > 0)
    _draw_front(lower, [(row.total.mean, row.loss.mean) for row in front])
    figure.legend(
        list(ends.values()), [textwrap.fill(label, 52) for label in ends], loc="outside lower left", ncols=1
    )
    return figure


def bytes_by_flow(comparison: Comparison) -> Figure:
    """Bytes of each flow for each method, mean over seeds, stacked."""
    results = [run.result for run in comparison.runs]
    groups = group(results)
    figure, axes = _figure(1.2 + 0.55 * len(groups))
    left = [0.0] * len(groups)
    for flow in FLOWS:
        width = [
            statistics.fmean(result.bytes.get(flow, 0) for result in members) for members in groups.values()
        ]
        if any(width):
            axes.barh(range(len(groups)), width, 0.42, left=left, color=flow_colour(flow), label=flow)
            left = [before + own for before, own in zip(left, width, strict=True)]
    for place, row in enumerate(summarise(results)):
        axes.text(
            0, place - 0.27, textwrap.shorten(row.label, 62, placeholder=" …"), fontsize=8.5, va="bottom"
        )
        share = f" ({format_percent(row.share.mean)})" if row.share else ""
        text = f"{format_bytes(left[place])}{share}"
        end = (left[place], place)
        axes.annotate(text, end, xytext=(4, 0), textcoords="offset points", fontsize=8.5, va="center")
    axes.set_xlim(0, 1.35 * max(left))  # room for the text behind the longest bar
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    _bytes_axis(axes.xaxis)
    _legend(figure, columns=2)
    return figure


def loss_curve(run: Run) -> tuple[list[int], list[float]]:
    """Give the bytes sent so far and the held-out loss after each round of training that was evaluated."""
    total, sent, losses = 0, [], []
    for number, lines in _by_round(run.metrics, first=0).items():
        total += sum(line.bytes.get(flow, 0) for line in lines for flow in FLOWS)
        loss = _mean(line.eval_loss for line in lines)
        if number > 0 and not math.isnan(loss):
            sent.append(total)
            losses.append(loss)
    return sent, losses


def _draw_end(upper: Axes, lower: Axes, row: Row, style: LabelStyle) -> Line2D:
    """Mark where a method ends; gives what stands for it in the legend."""
    gid = _SERIES + row.label
    if row.total.mean == 0:  # has no place on a logarithmic axis
        lower.axhline(row.loss.mean, color=style.colour, linestyle="--", gid=gid)
        return upper.axhline(row.loss.mean, color=style.colour, linestyle="--", gid=gid)
    x, y = row.total.mean, row.loss.mean
    end = lower.errorbar(
        x,
        y,
        xerr=row.total.spread,
        yerr=row.loss.spread,
        fmt=style.marker,
        color=style.colour,
        markersize=7,
        capsize=3,
    )
    for artist in (end.lines[0], *end.lines[1], *end.lines[2]):
        artist.set_gid(gid)
    [mark] = upper.plot(x, y, linestyle="", marker=style.marker, color=style.colour, markersize=7, gid=gid)
    return mark


def _draw_front(axes: Axes, ends: list[tuple[float, float]]) -> None:
    """Draw steps below and left of which no method is, up to the edges of the plot as it is."""
    if ends:
        (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
        sizes, losses = [ends[0][0], *(size for size, _ in ends), right], [top, *(loss for _, loss in ends)]
        axes.autoscale(enable=False)
        axes.step(
            sizes, [*losses, losses[-1]], color=INK, linestyle=":", linewidth=1.2, zorder=0, where="post"
        )


def _figure(height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, columns: int) -> None:
    """Put the legend below the plot, where it hides no data."""
    marks: dict[str, Artist] = {}
    for axes in figure.axes:
        for mark, name in zip(*axes.get_legend_handles_labels(), strict=True):
            marks.setdefault(str(name), mark)
    if marks:
        figure.legend(list(marks.values()), list(marks), loc="outside lower left", ncols=columns)


def _round_axis(axes: Axes, rounds: Iterable[int]) -> None:
    axes.set_xlabel("round")
    axes.set_xlim(min(rounds) - 0.6, max(rounds) + 0.6)  # also if there is one round only
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _bytes_axis(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))  # the labels are wide
    axis.set_major_formatter(EngFormatter(unit="B"))


def _marker(points: int, shape: str = "o") -> str:
    return shape if points <= _MAX_MARKED_POINTS else ""


def _log_bytes_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 30 else (1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _by_round(metrics: Sequence[ClientRound], first: int = 1) -> dict[int, list[ClientRound]]:
    rounds: defaultdict[int, list[ClientRound]] = defaultdict(list)
    for line in metrics:
        if line.round >= first:
            rounds[line.round].append(line)
    return dict(sorted(rounds.items()))


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else math.nan
