"""Cutting a causal LM or a sequence classifier into front, body and tail, exactly; knows neither files nor adapters.

Every part is the whole model with the blocks of the other parts replaced by stand-ins that hand the hidden
states on. Nothing is renumbered, so whatever transformers looks up by layer index (attention types, sliding
windows, scalings) stays right, and a part's weights keep the names they have in the whole model:

    whole   embeddings ─► b0 ─► b1 ─► b2 ─► b3 ─► b4 ─► norm ─► head
    front   embeddings ─► b0 ─► b1 ─► Exit ─► · ─► ·                     Exit takes what block 2 would get
    body    ( zeros ) ─► · ─► Entry ─► b2 ─► b3 ─► Exit                  Entry puts it in block 2's way
    tail    ( zeros ) ─► · ─► · ─► · ─► Entry ─► b4 ─► norm ─► head

Body and tail still run the model's own code from `inputs_embeds`, which makes masks and positions; what it
makes of the zeros (position embeddings, embedding norms and multipliers) is thrown away at Entry. A classification
head looks for the last token that is no padding in the ids: the part that holds it runs from stand-in ids, which tell
padding from text and nothing else.
Shapes: B batch, T tokens, D hidden, V vocabulary, C classes.
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from splitcom.amount import counted
from splitcom.errors import CutError
from splitcom.models.anatomy import Anatomy, Blank, Passed, Unused, survey

Positions = tuple[Tensor, Tensor]
"""Rows and columns, int64 [N] each, of N tokens of a batch."""


@dataclass(frozen=True)
class Span:
    """The blocks `start <= index < stop` of `num_blocks` that a part holds."""

    start: int
    stop: int
    num_blocks: int

    @property
    def first(self) -> bool:
        """Whether the part embeds tokens."""
        return self.start == 0

    @property
    def last(self) -> bool:
        """Whether the part computes logits."""
        return self.stop == self.num_blocks


def spans(num_blocks: int, cut: int, tail_blocks: int = 0) -> dict[str, Span]:
    """Return the span of each part by name; CutError where front or body would have no block."""
    if cut < 1 or tail_blocks < 0 or cut + tail_blocks >= num_blocks:
        raise CutError(
            f"model.cut = {cut} with model.tail_blocks = {tail_blocks} does not fit a model of "
            f"{counted(num_blocks, 'block')}: "
            f"client and server need at least one each; take a cut of 1 to {num_blocks - 1 - max(tail_blocks, 0)}"
            if num_blocks - 1 - max(tail_blocks, 0) > 0
            else f"model.tail_blocks = {tail_blocks} does not fit a model of "
            f"{counted(num_blocks, 'block')}: client and server "
            "need at least one each besides"
        )
    edge = num_blocks - tail_blocks
    parts = {"front": Span(0, cut, num_blocks), "body": Span(cut, edge, num_blocks)}
    return parts | ({"tail": Span(edge, num_blocks, num_blocks)} if tail_blocks else {})


class Exit(Passed):
    """Keeps the hidden states that leave the part here."""

    taken: Tensor | None = None

    def exchange(self, hidden: Tensor) -> Tensor:
        """Keep them; the rest of the run has no use."""
        self.taken = hidden
        return hidden.detach()


class Entry(Passed):
    """Puts the hidden states that enter the part here in place of those that arrive."""

    given: Tensor | None = None

    def exchange(self, hidden: Tensor) -> Tensor:
        """Give the ones that entered."""
        assert self.given is not None
        return self.given


class Part(nn.Module):
    """A span of a model; all its weights frozen until `add_lora`. One call at a time per object."""

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, span: Span) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.anatomy = anatomy
        self.span = span

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks that the part holds, in order."""
        return list(self._slots)[self.span.start : self.span.stop]

    @property
    def dtype(self) -> torch.dtype:
        """The frozen weights' dtype, which is that of activations; LoRA may have another."""
        parameters = cast(nn.Module, self.model).parameters()
        return next(p.dtype for p in parameters if not p.requires_grad and p.is_floating_point())

    @property
    def _slots(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.model.get_submodule(self.anatomy.blocks))

    def train(self, mode: bool = True) -> Self:
        """Set training mode; what runs on the zeros before Entry stays without dropout."""
        super().train(mode)
        if not self.span.first:
            self.model.eval()
            for module in (*self.blocks, *map(self.model.get_submodule, self.anatomy.after)):
                module.train(mode)
        return self

    def _run(self, attention_mask: Tensor | None, at: Positions | None = None, **inputs: Any) -> Tensor:
        inputs = {"attention_mask": attention_mask, "use_cache": False, **inputs}
        if self.span.last:
            return cast(Tensor, self.model(**inputs).logits) if at is None else self._logits(at, inputs)
        decoder = self.model.get_submodule(self.anatomy.decoder)
        door = cast(Exit, self._slots[self.span.stop])
        try:
            decoder(**inputs)
            return cast(Tensor, door.taken)
        finally:
            door.taken = None  # or the graph would live until the next call

    def _logits(self, at: Positions, inputs: dict[str, Any]) -> Tensor:
        """The logits [N, V] at N positions: the head, half of a small model's work, sees no others."""
        head = cast(nn.Module, self.model.get_output_embeddings())

        def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            rows, columns = (one.to(args[0].device) for one in at)
            return args[0][rows, columns][None], *args[1:]

        picked = head.register_forward_pre_hook(pick)
        try:
            return cast(Tensor, self.model(**inputs).logits[0])
        finally:
            picked.remove()


SOFT_PROMPT = "soft_prompt"
"""The name of the trained vectors [number, width] that stand before each text, if a front has some."""


NARROWS, WIDENS = "bottleneck_narrows", "bottleneck_widens"
"""The names of the trained matrices [width, D] of a front and [D, width] of a body between which few numbers cross."""


def soft_prompt_ids(number: int) -> Tensor:
    """The ids, int64 [number], by which a text names the vectors of a soft prompt: below 0, so those of no token."""
    return -1 - torch.arange(number)


class Front(Part):
    """Embeddings and the first blocks.

    Ids below 0 name vectors of its soft prompt (`soft_prompt_ids`), which are what the blocks get in their places.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **context: Any) -> Tensor:
        """Map ids and mask (int64 [B, T]) to hidden states [B, T, D] in the model's dtype.

        `context` is what transformers' models take besides: a cache, position ids.
        """
        prompt: Tensor | None = getattr(self.model, SOFT_PROMPT, None)
        if prompt is None:
            return _through(self.model, NARROWS, self._run(attention_mask, input_ids=input_ids, **context))
        words = cast(nn.Module, self.model.get_input_embeddings())(input_ids.clamp(min=0))
        vectors = prompt[(-1 - input_ids).clamp(min=0)].to(words.dtype)
        inputs = torch.where((input_ids < 0)[..., None], vectors, words)
        return _through(self.model, NARROWS, self._run(attention_mask, inputs_embeds=inputs, **context))


def _through(model: nn.Module, name: str, hidden: Tensor) -> Tensor:
    """What a matrix of a bottleneck makes of hidden states, in its dtype; themselves if there is none."""
    matrix: Tensor | None = getattr(model, name, None)
    return hidden if matrix is None else nn.functional.linear(hidden.to(matrix.dtype), matrix)


class _Later(Part):
    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        at: Positions | None = None,
        **context: Any,
    ) -> Tensor:
        """Map hidden states [B, T, D] to logits, or to hidden states where a tail follows.

        Logits are [B, T, V], of a classifier [B, C]: where these come from the last token, from the last of the mask.
        Of a causal LM's logits `at` asks for those of N positions alone: [N, V].

        Differentiable in `hidden`, which may have another float dtype than the model.
        """
        door = cast(Entry, self._slots[self.span.start - 1])
        door.given = _through(self.model, WIDENS, hidden).to(self.dtype)
        try:
            if self.span.last and self.anatomy.classifies:
                ids = self._stand_ins(hidden, attention_mask)
                return self._run(attention_mask, input_ids=ids, **context)
            zeros = door.given.new_zeros(*hidden.shape[:2], self.anatomy.width)
            return self._run(attention_mask, at, inputs_embeds=zeros, **context)
        finally:
            door.given = None

    def _stand_ins(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Ids [B, T] that are the padding's where the mask says so and another elsewhere."""
        padding = padding_id(self.model)
        ids = torch.full(hidden.shape[:2], int(padding == 0), device=hidden.device)
        return ids if attention_mask is None else ids.masked_fill(attention_mask == 0, padding)


class Body(_Later):
    """The blocks after the cut; with final norm and LM head if there is no tail."""


class Tail(_Later):
    """The last blocks, final norm and LM head; where embeddings are tied, the head is their frozen copy."""


@dataclass(frozen=True)
class SplitModel:
    """The parts of one model; calling it runs them one after the other, as the uncut model would."""

    front: Front
    body: Body
    tail: Tail | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Front, body and, if there is one, tail."""
        return (self.front, self.body) if self.tail is None else (self.front, self.body, self.tail)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map ids and mask (int64 [B, T]) to logits [B, T, V], of a classifier [B, C]."""
        hidden = self.front(input_ids, attention_mask)
        for part in self.parts[1:]:
            hidden = part(hidden, attention_mask)
        return cast(Tensor, hidden)


PARTS: dict[str, type[Part]] = {"front": Front, "body": Body, "tail": Tail}


def cut(model: PreTrainedModel, cut: int = 2, tail_blocks: int = 0) -> SplitModel:
    """Cut a causal LM or a classifier after its first `cut` blocks and, for the U-shape, before its last `tail_blocks`.

    The parts share the storage of the model's weights, which stay as they are, and its mode (training or not).
    Run one after the other, they give the uncut model's logits to the bit. Raises CutError if the model cannot be
    cut so.
    """
    if not isinstance(model, PreTrainedModel):
        raise CutError(
            f"looked for a transformers PreTrainedModel, found {type(model).__name__}; "
            "cut the base model and add LoRA to the parts with add_lora"
        )
    anatomy = survey(model)
    parts: dict[str, Any] = {}
    for name, span in spans(anatomy.num_blocks, cut, tail_blocks).items():
        part = strip(_share(model, trainable=True), anatomy, span)
        parts[name] = PARTS[name](part, anatomy, span).train(model.training)
    split = SplitModel(**parts)
    _verify(model, split)
    return split


def strip(model: PreTrainedModel, anatomy: Anatomy, span: Span) -> PreTrainedModel:
    """Replace in place whatever a part does not hold; works on the meta device as well."""
    blocks = cast(nn.ModuleList, model.get_submodule(anatomy.blocks))
    for index, block in enumerate(blocks):
        if not span.start <= index < span.stop:
            kind = {span.start - 1: Entry, span.stop: Exit}.get(index, Passed)
            blocks[index] = kind(block, anatomy.form)
    dropped = [*([] if span.last else anatomy.after), *([] if span.first else anatomy.before)]
    if not span.first and not (span.last and anatomy.tied):  # a tied head needs its weight
        dropped.append(anatomy.embeddings)
    for name in dropped:
        model.set_submodule(name, Unused())
    if span.last and anatomy.classifies:
        model.set_submodule(anatomy.embeddings, Blank(anatomy.width, model.dtype))
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "output_router_logits", False):  # a loss that needs the routers of all blocks
            config.output_router_logits = False
    names = dict(model.named_parameters(remove_duplicate=False))
    model.all_tied_weights_keys = {
        target: source
        for target, source in model.all_tied_weights_keys.items()
        if target in names and source in names
    }
    return model


def padding_id(model: PreTrainedModel) -> int:
    """Return the id by which a classifier of tokens' last position knows padding; 0 if none is set."""
    return max(getattr(model.config.get_text_config(), "pad_token_id", None) or 0, 0)


def recompute(part: Part) -> None:
    """Have a part hold of each block only what goes into it, and run it once more in the backward pass.

    To the same bits, with the same dropout; Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"
    (1604.06174). Raises CutError where transformers' code of the family cannot.
    """
    for block in part.blocks:
        if not isinstance(block, GradientCheckpointingLayer):
            raise CutError(
                f"checkpointing: the blocks of {part.model.config.model_type} are not made for it in transformers; set "
                "engine.checkpointing and client.checkpointing to false"
            )
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


PartT = TypeVar("PartT", bound=Part)


def replicate(part: PartT) -> PartT:
    """Return a copy with trainable tensors of its own that shares every frozen tensor with `part`."""
    return _share(part, trainable=False)


def frozen_view(part: PartT) -> PartT:
    """Return a copy that has no tensors of its own, and trains none."""
    return _share(part, trainable=True)


def share_embeddings(front: Front, last: Part) -> None:
    """Have the last part, if its head is tied to the embeddings, use those of a front at the same party: one copy."""
    if last.anatomy.tied:
        weight = front.model.get_input_embeddings().weight
        for module in (last.model.get_input_embeddings(), last.model.get_output_embeddings()):
            cast(nn.Module, module).weight = cast(nn.Parameter, weight)


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def _share(module: ModuleT, trainable: bool) -> ModuleT:
    """Copy modules but not tensors; trainable parameters are shared (then frozen) only where asked."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    for parameter in module.parameters():
        if trainable:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        elif not parameter.requires_grad:
            memo[id(parameter)] = parameter
    return copy.deepcopy(module, memo)


@torch.no_grad()
def _verify(model: PreTrainedModel, split: SplitModel) -> None:
    """Compare logits on two short right-padded texts: the last line of defence against a wrong cut."""
    if model.device.type == "meta":
        return
    # Frozen as the parts are: torch.matmul may sum in another order where a factor requires a gradient.
    whole = _share(model, trainable=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], device=model.device)
    ids = torch.tensor([[1, 2, 3, 2], [2, 1, 0, 0]], device=model.device)
    # A classifier takes the last id that is not the padding's for the end of the text.
    padding = padding_id(model)
    ids = torch.where(mask == 0, padding, ids + (ids >= padding).long())
    modules = (whole, *split.parts)
    for module in modules:
        module.eval()
    try:
        expected = whole(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = split(ids, mask)
    except Exception as error:  # whatever the model's own code raises on a part
        raise CutError(f"{_place(model, split)}: looked for a run of the parts, found {error!r}") from error
    for module in modules:
        module.train(model.training)
    # On accelerators some kernels add up in no fixed order.
    tolerance = 0.0 if model.device.type == "cpu" else 1e-2
    if not torch.allclose(expected, logits, rtol=tolerance, atol=tolerance, equal_nan=True):
        difference = (expected - logits).abs().max().item()
        raise CutError(
            f"{_place(model, split)}: looked for equal logits of the cut and the uncut model, "
            f"found a difference of {difference:.3g}"
        )


def _place(model: PreTrainedModel, split: SplitModel) -> str:
    return f"{type(model).__name__} cannot be cut into blocks " + ", ".join(
        f"{part.span.start}-{part.span.stop - 1}" for part in split.parts
    )
