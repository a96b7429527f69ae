"""Writes `report.html` for a run or a comparison: one file that opens anywhere, offline."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from splitcom.amount import counted
from splitcom.durable import write_atomic
from splitcom.errors import RunError
from splitcom.flows import FLOWS
from splitcom.report import markup, traffic
from splitcom.report.colour import BASELINE_COLOUR, CURVE, flow_colour, label_styles
from splitcom.report.folder import (
    COMPARISON,
    CONFIG,
    REPORT,
    RESULT,
    Comparison,
    Result,
    Run,
    load_comparison,
    load_run,
)
from splitcom.report.format import format_bytes, format_percent, format_seconds
from splitcom.report.summary import summarise
from splitcom.report.tables import NONE, flow_cells, quality_columns, table_cells

_MOST_CLASSES = 20  # of a confusion matrix that can still be read


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` into the folder of a run or comparison, and return its path. The page loads nothing else.

    Raises RunError if the folder is neither, is damaged, or cannot be written.
    """
    folder = Path(folder)
    if (folder / COMPARISON).exists():
        content = _comparison_page(load_comparison(folder))
    elif (folder / RESULT).exists():
        content = _run_page(load_run(folder))
    else:
        what = (
            "this run has not ended"
            if (folder / CONFIG).exists()
            else "no run or comparison to be found here"
        )
        raise RunError(f"{folder}: {what}; name the folder of a finished one")
    return write_atomic(folder / REPORT, content.encode())


def _run_page(run: Run) -> str:
    result = run.result
    subtitle = (
        f"{result.method} · model {result.model_name} · {counted(result.rounds, 'round')} · "
        f"{counted(result.clients, 'client')} · seed {result.seed}"
    )
    timed = traffic.of_run(run) if result.bytes["total"] else []
    sections = [
        markup.cards(_headlines(run)),
        run_figures(run),
        *([markup.section("Bytes per flow", flow_table(result))] if result.bytes["total"] else []),
        *_link_times(timed, [CURVE, BASELINE_COLOUR]),
        *_confusion(result),
        *_text_scores(result),
        *_samples(result),
        markup.section("How it was run", *_provenance(run)),
    ]
    title = run.folder.resolve().name if result.label == result.method else result.label
    return markup.page(title, subtitle, sections, {"methods": timed})


def _headlines(run: Run) -> list[tuple[str, str, str]]:
    result = run.result
    quality, sent, saving = result.eval, result.bytes, result.saving
    beside = "" if quality.rows is None else f", over {counted(quality.rows, 'row')}"
    beside += f", perplexity {quality.perplexity:.2f}" if quality.accuracy is None else ""
    others = " over other rows" if quality.has_changed_rows else ""
    ending = f"; {result.ending}" if result.ending else ""
    items = [
        (
            "Held-out loss",
            f"{quality.loss:.3f}",
            f"{quality.unit}{beside}; {quality.initial_loss:.3f} before{others}, {quality.best_loss:.3f} at best"
            f"{ending}",
        )
    ]
    if quality.accuracy is not None:
        items.append(("Accuracy", format_percent(quality.accuracy), "of held-out samples"))
    if sent["total"]:
        items += [
            ("Sent up", format_bytes(sent["up"]), f"saving {format_percent(saving['up'])}"),
            ("Sent down", format_bytes(sent["down"]), f"saving {format_percent(saving['down'])}"),
            (
                "Sent in all",
                format_bytes(sent["total"]),
                f"{format_bytes(result.uncompressed_bytes['total'])} as fp16",
            ),
            ("Saving", format_percent(saving["total"]), "against the same run uncompressed (fp16)"),
        ]
    else:
        items.append(("Sent in all", format_bytes(0), "nothing crosses a link"))
    wall, virtual = format_seconds(result.seconds.wall), format_seconds(result.seconds.virtual)
    if run.has_links:
        items.append(("Time", virtual, f"on the modelled links; computed in {wall}"))
    else:
        items.append(("Time", wall, "that this machine took"))
    return items


def run_figures(run: Run) -> Markup:
    """The plots of a run, as far as it has come."""
    from splitcom.report import plots  # matplotlib takes its time: only where something is drawn

    drawn = []
    trained = [line for line in run.metrics if line.round > 0]
    if any(line.eval_loss is not None for line in trained):
        against, read = "rounds", "One point for each evaluation. Lower is better."
        if run.result.bytes["total"]:
            against = "bytes"
            read = "One point for each evaluation. Lower and further to the left is better."
        drawn.append((f"Held-out loss against {against}", plots.loss_against_bytes, read))
    if any(line.eval_accuracy is not None for line in trained):
        read = "The part of held-out samples whose class is right."
        drawn.append(("Held-out accuracy", plots.accuracy, read))
    if trained and run.result.bytes["total"]:
        read = "What all clients sent and received. Round 0 is before training."
        drawn.append(("Bytes per flow and round", plots.bytes_by_round, read))
    if panels := plots.decided(run):
        caption = " and ".join(panels).capitalize()
        read = "Means over the clients. A skipped sample is not sent, as the receiver has something similar enough."
        if "step" in panels:
            read = "Means over the clients. A larger step sends less, and less precisely."
        drawn.append((caption, plots.codec_decisions, read))
    if any(line.loss is not None for line in trained):
        read = "Each client on its own samples while it trains, and the averaged model on held-out ones."
        drawn.append(("Training loss per client", plots.training_loss, read))
    return markup.figures(
        [(caption, plots.render_svg(draw, run, caption), read) for caption, draw, read in drawn]
    )


def flow_table(result: Result) -> Markup:
    """What was sent of each flow, beside what fp16 would have taken."""
    sent, whole = result.bytes, result.uncompressed_bytes

    def line(key: str, name: object) -> list[object]:
        own, uncompressed = sent.get(key, 0), whole.get(key, 0)
        share = own / uncompressed if uncompressed else None
        return [
            name,
            format_bytes(own),
            NONE if share is None else format_percent(share),
            format_bytes(uncompressed),
        ]

    flows = [flow for flow in FLOWS if sent.get(flow, 0) or whole.get(flow, 0)]
    return markup.table(
        ["Flow", "Sent", "Share", "As fp16"],
        [line(flow, markup.swatch(flow_colour(flow), flow)) for flow in flows],
        [line("up", "up"), line("down", "down"), line("total", "total")],
    )


def _link_times(timed: list[dict[str, object]], colours: list[str]) -> Iterator[Markup]:
    rows = [
        (colour, str(method["label"]))
        for colour, method in zip(colours, timed, strict=False)
        if method["seeds"]
    ]
    if rows:
        yield markup.section(
            "Time on a link", markup.link_times(traffic.SLIDERS, rows), markup.paragraph(traffic.EXPLANATION)
        )


def _confusion(result: Result) -> Iterator[Markup]:
    """The confusion matrix; of many classes what was mistaken most often."""
    if result.confusion is None:
        return
    labels, counts = result.confusion.labels, result.confusion.counts
    if len(labels) <= _MOST_CLASSES:
        rows = [
            [label, *row, format_percent(row[place] / sum(row)) if sum(row) else NONE]
            for place, (label, row) in enumerate(zip(labels, counts, strict=True))
        ]
        table = markup.table(["", *labels, "Right"], rows)
        read = "A row for each class of held-out samples; the columns say as what they were told."
    else:
        mistakes = [
            (number, right, labels[place])
            for right, row in zip(labels, counts, strict=True)
            for place, number in enumerate(row)
            if number and labels[place] != right
        ]
        commonest = sorted(mistakes, reverse=True)[:_MOST_CLASSES]
        rows = [[right, told, number] for number, right, told in commonest]
        table = markup.table(["Class", "Told as", "Samples"], rows, texts=2)
        read = f"The commonest mistakes, of {sum(number for number, *_ in mistakes)}."
    yield markup.section("Classes of held-out samples", table, markup.paragraph(read))


def _text_scores(result: Result) -> Iterator[Markup]:
    if result.text is not None:
        scores = result.text.model_dump(exclude={"prompts"}, exclude_none=True)
        cells = [f"{value:.3f}" for value in scores.values()]
        yield markup.section(
            "Generated text, scored",
            markup.table([name.replace("_", "-").upper() for name in scores], [cells], texts=0),
            markup.paragraph(
                f"Continuations of {counted(result.text.prompts, 'held-out prompt')} against all their references."
            ),
        )


def _samples(result: Result) -> Iterator[Markup]:
    if result.samples:
        texts = [
            markup.terms(
                [
                    ("Prompt", sample.prompt),
                    ("Reference", sample.reference),
                    ("Before", sample.before),
                    ("After", sample.after),
                ]
            )
            for sample in result.samples
        ]
        yield markup.section("Generated text, before and after", *texts)


def _provenance(run: Run) -> Iterator[Markup]:
    if run.config:
        yield markup.details("Configuration", markup.preformatted(run.config))
    if run.result.environment:
        rows = [[name, value] for name, value in run.result.environment.items()]
        yield markup.details("Environment", markup.table(["What", "Value"], rows, texts=2))


def _comparison_page(comparison: Comparison) -> str:
    from splitcom.report import plots

    results = [run.result for run in comparison.runs]
    rows = summarise(results)
    styles = label_styles(rows)
    timed = traffic.of_comparison(rows, comparison.runs)
    first, seeds = results[0], {result.seed for result in results}
    rounds = " or ".join(map(str, sorted({result.rounds for result in results})))
    name = comparison.folder.resolve().name
    plane, flows = "Held-out loss against bytes", "Bytes per flow and method, mean over seeds"
    read = "Lower and further to the left is better. No method lies below or left of the dotted line."
    drawn = [(plane, plots.render_svg(plots.loss_plane, comparison, plane), read)]
    if any(result.bytes["total"] for result in results):
        read = "All bytes, evaluation included; in brackets the part of the uncompressed run's."
        drawn.append((flows, plots.render_svg(plots.bytes_by_flow, comparison, flows), read))
    return markup.page(
        name,
        f"{counted(len(results), 'run')} · model {first.model_name} · rounds: {rounds} · "
        f"{counted(first.clients, 'client')} · {counted(len(seeds), 'seed')}",
        [
            markup.section("Methods", _method_table(results)),
            markup.figures(drawn),
            markup.section("Bytes by flow", _flow_comparison(results)),
            *_link_times(timed, [styles[row.label].colour for row in rows]),
            markup.section("Runs", _run_table(comparison)),
        ],
        {"methods": timed},
    )


def _method_table(results: list[Result]) -> Markup:
    names = ["method", "seeds", "held-out loss", *quality_columns(results)]
    names += ["up", "down", "total", "share", "saving"]
    names += ["link time"] if any(result.seconds.virtual for result in results) else []
    names += ["wall time"]
    styles = label_styles(summarise(results))
    rows = [
        [markup.switch(styles[label].colour, label), *others]
        for label, *others in table_cells(results, names)
    ]
    explained = (
        "Mean ± sample standard deviation over seeds; sizes and times are means. “Share” is the part of "
        "splitlora's total if that was run, otherwise of the same run uncompressed (fp16); “saving” is always "
        "against the same run uncompressed (fp16)."
    )
    return Markup(markup.table([name.capitalize() for name in names], rows) + markup.paragraph(explained))


def _flow_comparison(results: list[Result]) -> Markup:
    names, rows = flow_cells(results, list(FLOWS))
    heads = ["Method", *(markup.swatch(flow_colour(flow), flow) for flow in names[1:])]
    return Markup(markup.table(heads, rows) + markup.paragraph("Means over seeds."))


def _run_table(comparison: Comparison) -> Markup:
    rows = []
    for run in comparison.runs:
        name: object = run.folder.name
        if (run.folder / REPORT).exists():
            address = Path(os.path.relpath(run.folder / REPORT, comparison.folder)).as_posix()
            name = markup.link(quote(address), run.folder.name)
        loss, total = run.result.eval.loss, run.result.bytes["total"]
        rows.append([name, run.result.label, run.result.seed, f"{loss:.3f}", format_bytes(total)])
    return markup.table(["Folder", "Method", "Seed", "Held-out loss", "Total"], rows, texts=2)
