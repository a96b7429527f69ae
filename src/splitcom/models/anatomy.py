"""What a causal LM or a sequence classifier is made of, found by watching it run; knows no family by name.

A model can be cut before block k if nothing but the hidden states crosses that place. Reading source code or
comparing names cannot show that, so `survey` runs the model once on four tokens with every block replaced by
a recorder and every weight by zeros that take no memory, and follows the tensors:

    input_ids ─► embeddings ─► (block 0) ─► (block 1) ─► … ─► (block n-1) ─► final norm ─► last_hidden_state
                               └── recorders: which arguments came in, is the hidden state the very tensor
                                   that the block before returned, does any other argument carry activations

A second run from `inputs_embeds` must give the blocks the same masks and positions: later parts see no ids.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

from splitcom.errors import CutError

Form = Callable[[Tensor], Any]

# What the blocks of a family return: the hidden states alone, or first in a tuple.
FORMS: tuple[Form, ...] = (
    lambda hidden: hidden,
    lambda hidden: (hidden,),
    lambda hidden: (hidden, None),
    lambda hidden: (hidden, None, None),
)

# Configuration values that, where set, make a block depend on more than the hidden states before it.
UNCUTTABLE = {
    "is_encoder_decoder": "the decoder attends to an encoder, which no part would hold",
    "add_cross_attention": "the decoder attends to an encoder, which no part would hold",
    "layerdrop": "whole blocks are skipped at random in training",
    "num_kv_shared_layers": "late blocks read the keys and values of early ones",
}


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a model are, as module paths below it."""

    decoder: str  # the model without its LM head or classification head
    blocks: str
    num_blocks: int
    form: Form
    embeddings: str
    before: tuple[str, ...]  # what else has weights and runs before the blocks: position embeddings, norms
    after: tuple[str, ...]  # what has weights and runs after them: final norm, pooler, head
    head: tuple[str, ...]  # of these the classification head; empty in a causal LM
    width: int  # of the `inputs_embeds` that a part without `before` runs on
    tied: bool  # the LM head's weight is the embeddings'
    mixture: bool  # some block has experts

    @property
    def classifies(self) -> bool:
        """Whether the model gives one row of logits per text, and not one per token."""
        return bool(self.head)


class Passed(nn.Module):
    """Stands where a block of another part stood and hands the hidden states on unchanged.

    The block's plain attributes (attention type, layer index …) stay, since models look them up.
    """

    def __init__(self, block: nn.Module, form: Form) -> None:
        super().__init__()
        constants = {
            name: value
            for cls in reversed(type(block).__mro__)
            if cls not in nn.Module.__mro__
            for name, value in vars(cls).items()
            if isinstance(value, str | int | None) and not name.startswith("__")
        }
        own = set(vars(self))
        attributes = {**constants, **vars(block)}
        self.__dict__.update({name: value for name, value in attributes.items() if name not in own})
        self.form = form

    def exchange(self, hidden: Tensor) -> Tensor:
        """Give what the next block is to receive."""
        return hidden

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden states in the family's own form."""
        return self.form(self.exchange(hidden_argument(args, kwargs)))


class Unused(nn.Module):
    """Stands where a part needs no weights, because what comes out is thrown away."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return activations [B, T, D] as they are and, for ids, positions or a mask [B, T], a zero to add.

        A mask may be of floats: models make one where they are given none.
        """
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        return (
            given if given.is_floating_point() and given.dim() > 2 else torch.zeros((), device=given.device)
        )


class Blank(nn.Module):
    """Stands where the embeddings of another part stood, in a part whose head must see ids: all are embedded as 0."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.width = width
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids of shape [batch, tokens] to zeros [batch, tokens, width]."""
        return torch.zeros(*ids.shape, self.width, dtype=self.dtype, device=ids.device)


def hidden_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states among a block's arguments."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(hidden, Tensor):
        raise CutError(
            "looked for the hidden states as a block's first argument or as `hidden_states`, "
            f"found arguments {[type(a).__name__ for a in args]} and {sorted(kwargs)}"
        )
    return hidden


@dataclass
class _Trace:
    """What one run showed: each block's input, output and other arguments, and the modules around them."""

    received: list[Tensor] = field(default_factory=list)
    returned: list[Tensor] = field(default_factory=list)
    others: list[list[Any]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    last: Tensor | None = None


class _Recorder(Passed):
    """A block that does nothing but note what it was called with."""

    def __init__(self, block: nn.Module, form: Form, index: int, trace: _Trace) -> None:
        super().__init__(block, form)
        self.index = index
        self.trace = trace

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = hidden_argument(args, kwargs)
        # A new leaf per block: a gradient tells later which of them reached where.
        out = hidden.detach().clone().requires_grad_()
        self.trace.indices.append(self.index)
        self.trace.received.append(hidden)
        self.trace.returned.append(out)
        rest = {name: value for name, value in kwargs.items() if value is not hidden}
        self.trace.others.append(tree_leaves((args[1:], rest)))
        # What else a block returns must not reach later ones; it is marked by being differentiable.
        marked = torch.zeros((), requires_grad=True)
        return tree_map(lambda value: marked if value is None else value, self.form(out))


@torch.inference_mode(False)
@torch.enable_grad()
def survey(model: PreTrainedModel) -> Anatomy:
    """Find where `model` (real or on the meta device) can be cut; allocates no weights.

    Raises CutError, saying what was looked for and what was found, if a cut would not be exact.
    """
    config = model.config.get_text_config()
    for name, why in UNCUTTABLE.items():
        if value := getattr(config, name, None):
            raise CutError(f"{_name(model)} cannot be cut: its configuration has {name} = {value!r}: {why}")
    path, blocks = _find_blocks(model, getattr(config, "num_hidden_layers", None))
    decoder = _find_decoder(model, path)
    failures: list[str] = []
    for form in FORMS:
        stage = _Stage(model, decoder, path, form)
        try:
            before, after, width = _check(stage)
        except CutError as error:
            failures.append(str(error))
        except Exception as error:  # the model's own code with stand-ins: any failure means "not this form"
            failures.append(f"{type(error).__name__}: {error}")
        else:
            lm_head = model.get_output_embeddings()
            behind = [name for name in after if not name.startswith(f"{decoder}.")]
            return Anatomy(
                decoder=decoder,
                blocks=path,
                num_blocks=len(blocks),
                form=form,
                embeddings=stage.embeddings,
                before=before,
                after=after,
                head=() if lm_head is not None else tuple(filter(partial(_has_weights, model), behind)),
                width=width,
                tied=getattr(lm_head, "weight", None) is model.get_input_embeddings().weight,
                mixture=any(name.endswith(".experts") for name, _ in blocks.named_modules()),
            )
    raise CutError(f"{_name(model)} cannot be cut at {path}: " + "; or ".join(dict.fromkeys(failures)))


def _has_weights(model: nn.Module, name: str) -> bool:
    return any(True for _ in model.get_submodule(name).parameters())


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _find_blocks(model: PreTrainedModel, num_blocks: int | None) -> tuple[str, nn.ModuleList]:
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    outer = {name: m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    # Some configurations count layers otherwise; then the list must be the only one.
    fitting = {name: m for name, m in outer.items() if len(m) == num_blocks} or outer
    if len(fitting) != 1:
        raise CutError(
            f"{_name(model)} cannot be cut: looked for one list of {num_blocks} blocks "
            f"(num_hidden_layers), found {({name: len(m) for name, m in outer.items()}) or 'no list'}"
        )
    ((path, blocks),) = fitting.items()
    seen: dict[int, int] = {}
    for index, block in enumerate(blocks):
        for tensor in block.parameters():
            if (first := seen.setdefault(id(tensor), index)) != index:
                raise CutError(
                    f"{_name(model)} cannot be cut: looked for blocks of their own weights, "
                    f"found that blocks {first} and {index} of {path} share some"
                )
    return path, blocks


def _find_decoder(model: PreTrainedModel, blocks: str) -> str:
    for name, module in model.named_modules():
        if name and blocks.startswith(f"{name}.") and isinstance(module, PreTrainedModel):
            return str(name)
    raise CutError(f"{_name(model)} cannot be cut: looked for a model around {blocks}, found the LM alone")


@dataclass(frozen=True)
class _Stage:
    """A model to be run with recorders for blocks, which answer in the form `form`."""

    model: PreTrainedModel
    decoder: str
    blocks: str
    form: Form

    @property
    def embeddings(self) -> str:
        wanted = self.model.get_input_embeddings()
        return next(str(name) for name, module in self.model.named_modules() if module is wanted)

    @property
    def weighted(self) -> list[str]:
        """The decoder's modules with weights of their own outside the blocks."""
        return [
            name
            for name, module in self.model.named_modules()
            if f"{name}.".startswith(f"{self.decoder}.")
            and not f"{name}.".startswith(f"{self.blocks}.")
            and any(True for _ in module.parameters(recurse=False))
        ]

    def run(self, without: tuple[str, ...] = (), **inputs: Tensor) -> _Trace:
        """Run the decoder on two texts of two tokens, the second padded."""
        ghost, trace = self._ghost()

        def note(name: str) -> Callable[..., None]:
            return lambda *_: (trace.after if trace.received else trace.before).append(name)

        for name in self.weighted:
            ghost.get_submodule(name).register_forward_pre_hook(note(name))
        for name in without:
            ghost.set_submodule(name, Unused())
        mask = torch.tensor([[1, 1], [1, 0]])
        output = ghost.get_submodule(self.decoder)(**inputs, attention_mask=mask, use_cache=False)
        trace.last = output.last_hidden_state
        return trace

    def _ghost(self) -> tuple[PreTrainedModel, _Trace]:
        """Copy the model with zeros for weights, of which only one is stored."""
        trace = _Trace()
        memo: dict[int, Any] = {id(trace): trace}
        for index, block in enumerate(cast(nn.ModuleList, self.model.get_submodule(self.blocks))):
            memo[id(block)] = _Recorder(block, self.form, index, trace)
        for parameter in self.model.parameters():
            zero = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            memo[id(parameter)] = nn.Parameter(zero, requires_grad=False)
        for buffer in self.model.buffers():
            memo[id(buffer)] = torch.zeros(buffer.shape, dtype=buffer.dtype)
        return copy.deepcopy(self.model, memo).eval(), trace


def _check(stage: _Stage) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return what runs before and after the blocks and the width of a later part's input.

    Raises CutError where more than hidden states crosses between blocks.
    """
    weight = stage.model.get_input_embeddings().weight
    start = torch.zeros(2, 2, weight.shape[-1], dtype=weight.dtype, requires_grad=True)
    by_ids = stage.run(input_ids=torch.tensor([[1, 2], [3, 0]]))
    trace = stage.run(inputs_embeds=start.clone())
    _check_flow(trace, start)
    if (index := _first_difference(trace, by_ids)) is not None:
        raise CutError(
            "looked for the same arguments of the blocks from token ids and from embeddings, "
            f"found others at block {index}"
        )
    known = {*by_ids.before, *trace.before, *trace.after}
    if unknown := [name for name in stage.weighted if name not in known]:
        raise CutError(f"looked for the place of every weight, found modules that did not run: {unknown[:5]}")
    before = _outermost(name for name in by_ids.before if name != stage.embeddings)
    parent, _, own = stage.decoder.rpartition(".")
    children = stage.model.get_submodule(parent).named_children()
    around = [f"{parent}.{name}".lstrip(".") for name, _ in children if name != own]
    after = (*_outermost(name for name in trace.after if name not in by_ids.before), *around)
    hidden = trace.received[0]
    try:
        light = stage.run(without=before, inputs_embeds=torch.zeros_like(hidden))
        needless = _first_difference(light, trace) is None and light.received[0].shape == hidden.shape
    except Exception:  # the model's own code with stand-ins: then the later parts keep the weights
        needless = False
    return (before, after, hidden.shape[-1]) if needless else ((), after, start.shape[-1])


def _check_flow(trace: _Trace, start: Tensor) -> None:
    num_blocks = len(trace.returned)
    if not num_blocks or trace.indices != list(range(num_blocks)):
        raise CutError(f"looked for one call of each block in order, found calls of {trace.indices}")
    for index, (received, before) in enumerate(zip(trace.received[1:], trace.returned, strict=False), 1):
        if received is not before:
            raise CutError(
                f"looked for block {index - 1}'s output at block {index}'s input, found another tensor"
            )
    for index, others in enumerate(trace.others):
        if any(isinstance(value, Tensor) and value.requires_grad for value in others):
            raise CutError(f"looked for hidden states alone, found that block {index} gets more activations")
    last = cast(Tensor, trace.last)
    reached = torch.autograd.grad(last.sum(), [start, *trace.returned], allow_unused=True)
    if reached[-1] is None or any(gradient is not None for gradient in reached[:-1]):
        raise CutError(
            "looked for an output that comes from the last block alone, found more activations in it"
        )


def _first_difference(mine: _Trace, theirs: _Trace) -> int | None:
    """Return the first block that got other arguments, hidden states aside."""
    for index, (one, other) in enumerate(zip(mine.others, theirs.others, strict=True)):
        if len(one) != len(other) or not all(map(_same, one, other)):
            return index
    return None


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Tensor):
        return isinstance(theirs, Tensor) and torch.equal(mine, theirs)
    return mine is theirs or type(mine) is type(theirs)


def _outermost(names: Iterable[str]) -> tuple[str, ...]:
    found = list(dict.fromkeys(names))
    return tuple(name for name in found if not any(name.startswith(f"{other}.") for other in found))
