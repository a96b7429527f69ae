"""Parts that have tensors of others: a body from a later block on, a front with the frozen tensors of another.

body           ( zeros ) ─► Entry ─► b2 ─► b3 ─► b4 ─► norm ─► head
deeper at 4    ( zeros ) ─► ·     ─► ·  ─► Entry ─► b4 ─► norm ─► head       b4, norm and head are the same tensors

front          embeddings ─► b0 ─► b1 ─► b2 ─► Exit
shallower at 2 embeddings ─► b0 ─► b1 ─► Exit ─► ·                           embeddings, b0 and b1 are the same tensors
"""

import copy
from typing import Any

from splitcom.models.anatomy import Passed
from splitcom.models.split import Body, Entry, Exit, Front, Part, Span, frozen_view


def deeper(body: Body, cut: int) -> Body:
    """Return the body from a later block on, where clients of a deeper cut enter: all its tensors are this one's."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*body.parameters(), *body.buffers())}
    found = copy.deepcopy(body, memo)
    for index in range(body.span.start - 1, cut):
        kind = Entry if index == cut - 1 else Passed
        found._slots[index] = kind(found._slots[index], body.anatomy.form)
    found.span = Span(cut, body.span.stop, body.span.num_blocks)
    return found.train(body.training)


def shallower(front: Front, cut: int) -> Front:
    """Return the first blocks of a front, which trains nothing: all its tensors are this one's."""
    found = frozen_view(front)
    for index in range(cut, front.span.stop):
        kind = Exit if index == cut else Passed
        found._slots[index] = kind(found._slots[index], front.anatomy.form)
    found.span = Span(0, cut, front.span.num_blocks)
    return found.train(front.training)


def share_frozen(part: Part, other: Part) -> None:
    """Have a part use another's frozen tensors of the same names, but LoRA's, for its own: one copy at a party."""
    theirs = dict(other.model.named_parameters(remove_duplicate=False))
    for prefix, module in part.model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            same = theirs.get(f"{prefix}.{name}")
            is_lora = ".lora_" in f"{prefix}.{name}"  # of another rank perhaps
            if same is not None and not (parameter.requires_grad or same.requires_grad or is_lora):
                module.register_parameter(name, same)


def block_of(part: Part, name: str) -> int | None:
    """The number of the block that a tensor of this name is in; None if it is in none."""
    inside = name.removeprefix(f"{part.anatomy.blocks}.")
    return None if inside == name else int(inside.split(".")[0])
