"""`splitcom inspect`: what each part of a cut model holds, and what a step sends."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitcom.amount import counted
from splitcom.cli.output import spoken
from splitcom.cli.train import Assignments

if TYPE_CHECKING:
    from splitcom.config import Config
    from splitcom.models.description import Description


@spoken
def inspect(
    model: Annotated[
        str | None,
        typer.Argument(help="'bundled', a local folder, or a name on the hub.", show_default="bundled"),
    ] = None,
    cut: Annotated[int | None, typer.Option(help="Blocks in the front.", show_default="2")] = None,
    tail_blocks: Annotated[
        int | None, typer.Option(help="Blocks in the tail; 0 for the standard form.", show_default="0")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.", show_default="8")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a step.", show_default="8")] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Classes of a sequence classifier; 0 for a model that writes text.",
            show_default="0",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a sample.")] = 512,
    train_head: Annotated[bool | None, typer.Option("--train-head", help="LoRA on the LM head too.")] = None,
    client: Annotated[
        bool, typer.Option("--client", help="Show how much memory a client needs, and for what.")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="Samples of that client.")] = 200,
    assignments: Assignments = None,
    link: Annotated[
        str | None, typer.Option(metavar="UP/DOWN", help="Mbit/s of a client's link: seconds of each flow.")
    ] = None,
) -> dict[str, Any]:
    """Show parameters and memory of each part, and the bytes of each flow in a step; loads no weights.

    An option comes before --set with the setting of the same meaning. What codecs make of it depends on the text:
    "splitcom train --dry-run" tells.
    """

    from dataclasses import asdict

    from splitcom.config import Config
    from splitcom.methods.inspect import bytes_of_evaluation, bytes_of_step, clients_of, seconds_of_step
    from splitcom.methods.need import need_of_client
    from splitcom.models import describe
    from splitcom.report.inspection import clients_table, flow_table, need_table, part_table
    from splitcom.report.terminal import Terminal
    from splitcom.settings.tree import parse_assignment

    options = {
        "model.source": model,
        "model.cut": cut,
        "model.tail_blocks": tail_blocks,
        "lora.rank": rank,
        "lora.train_head": train_head,
        "training.batch_size": batch_size,
        **_learning(classes),
    }
    given = {key: value for key, value in options.items() if value is not None}
    settings = Config().override(dict(map(parse_assignment, assignments or [])) | given, "--set")
    found = describe(
        settings.model.source,
        cut=settings.model.cut,
        tail_blocks=settings.model.tail_blocks,
        rank=settings.lora.rank,
        targets=settings.lora.targets,
        head=settings.lora.train_head,
        labels=settings.data.classes,
    )
    batch = settings.training.batch_size
    width = settings.model.crossing_width(found.hidden_size)
    shape = (width, batch, tokens, settings.model.tail_blocks)
    flows = bytes_of_step(*shape)
    seconds = None if link is None else seconds_of_step(flows, link)
    needs = {
        whose: (own, need_of_client(own, samples, tokens))
        for whose, own in (_kinds(settings) if client else {}).items()
    }

    terminal = Terminal()
    terminal.print(part_table(found.parts, _title(found, settings.model.source)))
    terminal.print(_head(found, settings))
    content: dict[str, Any] = {
        "model": asdict(found) | {"dtype": _dtype(found)},
        "bytes_of_step": flows,
        "bytes_of_evaluation": bytes_of_evaluation(*shape),
    }
    if settings.clients.given:
        content["clients"] = clients_of(settings)
        terminal.print(clients_table(content["clients"]))
    for whose, (own, need) in needs.items():
        title = f"{whose} with {counted(samples, 'sample')}, weights in {own.model.dtype}"
        terminal.print(need_table(vars(need), title))
        content.setdefault("client", vars(need))  # of the first kind
    if seconds is not None:
        content["seconds_of_step"] = seconds
    title = f"uncompressed fp16, {counted(batch, 'sample')} of {counted(tokens, 'token')}"
    terminal.print(flow_table(flows, content["bytes_of_evaluation"], title, seconds))
    return content


def _learning(classes: int | None) -> dict[str, Any]:
    """The settings of a model that learns so many classes, or with 0 to write text."""
    if not classes:
        return {} if classes is None else {"data.task": "generation"}
    return {"data.task": "classification", "data.labels": [str(index) for index in range(classes)]}


def _kinds(settings: "Config") -> dict[str, "Config"]:
    """The configurations that clients have, each once, by the first client that has it."""
    if not settings.clients.given:
        return {"a client": settings}
    kinds: dict[str, Config] = {}
    for name in settings.federation.names or settings.client_names:
        own = settings.of_client(name)
        if own not in kinds.values():
            kinds[name] = own
    return kinds


def _title(found: "Description", source: str) -> str:
    tied = ", tied embeddings" if found.tied_embeddings else ""
    return (
        f"{source}: {found.model_type}, {counted(found.num_blocks, 'block')}, hidden {found.hidden_size}, vocabulary "
        f"{found.vocab_size:,}, {found.parameters:,} parameters in {_dtype(found)}{tied}"
    )


def _dtype(found: "Description") -> str:
    return str(found.dtype).removeprefix("torch.")  # as settings have it


def _head(found: "Description", settings: "Config") -> str:
    from splitcom.report.format import format_bytes

    holder, tail_blocks = found.parts[-1].name, settings.model.tail_blocks
    weights = format_bytes(found.head_parameters * found.dtype.itemsize)
    head = (
        f"LM head: {found.vocab_size:,} tokens x {found.hidden_size} = {found.head_parameters:,} parameters"
        if settings.data.classes is None
        else f"classification head, trained whole: {found.head_parameters:,} parameters"
    )
    return (
        f"{head}, {weights}, in the {holder}{' at each client' if tail_blocks else ''}"
        f"{_tie(found.tied_embeddings, tail_blocks)}\n"
    )


def _tie(tied: bool, tail_blocks: int) -> str:
    if not tied:
        return ""
    return ": the embeddings, which front and tail share" if tail_blocks else ": a copy of the embeddings"
