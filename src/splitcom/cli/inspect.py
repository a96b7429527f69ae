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
        str, typer.Argument(help="'bundled', a local folder, or a name on the hub.")
    ] = "bundled",
    cut: Annotated[int, typer.Option(help="Blocks in the front.")] = 2,
    tail_blocks: Annotated[int, typer.Option(help="Blocks in the tail; 0 for the standard form.")] = 0,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 8,
    batch_size: Annotated[int, typer.Option(help="Samples in a step.")] = 8,
    classes: Annotated[
        int, typer.Option(min=0, help="Classes of a sequence classifier; 0 for a model that writes text.")
    ] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens of a sample.")] = 512,
    train_head: Annotated[bool, typer.Option("--train-head", help="LoRA on the LM head too.")] = False,
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

    What codecs make of it depends on the text: "splitcom train --dry-run" tells.
    """

    from dataclasses import asdict

    from splitcom.config import Config
    from splitcom.methods.inspect import bytes_of_evaluation, bytes_of_step, clients_of, seconds_of_step
    from splitcom.methods.need import need_of_client
    from splitcom.models import describe
    from splitcom.report.inspection import clients_table, flow_table, need_table, part_table
    from splitcom.report.terminal import Terminal
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    given = {
        "model.source": model,
        "model.cut": cut,
        "model.tail_blocks": tail_blocks,
        "lora.rank": rank,
        "lora.train_head": train_head,
        "training.batch_size": batch_size,
    }
    settings = Config().override(given | dict(map(parse_assignment, assignments or [])), "--set")
    found = describe(
        model,
        cut=cut,
        tail_blocks=tail_blocks,
        rank=rank,
        targets=settings.lora.targets,
        head=train_head,
        labels=[str(index) for index in range(classes)] or None,
    )
    dtype = str(found.dtype).removeprefix("torch.")  # as settings have it
    tied = ", tied embeddings" if found.tied_embeddings else ""
    title = (
        f"{model}: {found.model_type}, {counted(found.num_blocks, 'block')}, hidden {found.hidden_size}, vocabulary "
        f"{found.vocab_size:,}, {found.parameters:,} parameters in {dtype}{tied}"
    )
    terminal.print(part_table(found.parts, title))
    terminal.print(_head(found, classes, tail_blocks))
    shape = (found.hidden_size, batch_size, tokens, tail_blocks)
    content: dict[str, Any] = {
        "model": asdict(found) | {"dtype": dtype},
        "bytes_of_step": bytes_of_step(*shape),
        "bytes_of_evaluation": bytes_of_evaluation(*shape),
    }
    if settings.clients.given:
        content["clients"] = clients_of(settings)
        terminal.print(clients_table(content["clients"]))
    if client:
        for whose, own in _kinds(settings).items():
            need = need_of_client(own, samples, tokens)
            title = f"{whose} with {counted(samples, 'sample')}, weights in {settings.model.dtype}"
            terminal.print(need_table(vars(need), title))
            content.setdefault("client", vars(need))  # of the first kind
    title = f"uncompressed fp16, {counted(batch_size, 'sample')} of {counted(tokens, 'token')}"
    if link is not None:
        content["seconds_of_step"] = seconds_of_step(bytes_of_step(*shape), link)
    seconds = content.get("seconds_of_step")
    terminal.print(flow_table(bytes_of_step(*shape), bytes_of_evaluation(*shape), title, seconds))
    return content


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


def _head(found: "Description", classes: int, tail_blocks: int) -> str:
    from splitcom.report.format import format_bytes

    holder = found.parts[-1].name
    weights = format_bytes(found.head_parameters * found.dtype.itemsize)
    head = (
        f"classification head, trained whole: {found.head_parameters:,} parameters"
        if classes
        else f"LM head: {found.vocab_size:,} tokens x {found.hidden_size} = {found.head_parameters:,} parameters"
    )
    return (
        f"{head}, {weights}, in the {holder}{' at each client' if tail_blocks else ''}"
        f"{_tie(found.tied_embeddings, tail_blocks)}\n"
    )


def _tie(tied: bool, tail_blocks: int) -> str:
    if not tied:
        return ""
    return ": the embeddings, which front and tail share" if tail_blocks else ": a copy of the embeddings"
