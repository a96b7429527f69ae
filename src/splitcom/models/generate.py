"""Text from a cut model: transformers' own search, with a key-value cache at each part.

prompt      all its positions ─► front ─► (send) ─► body ─► logits        caches are filled
each token  one position      ─► front ─► (send) ─► body ─► logits        caches grow by one
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from splitcom.models.split import Front, Part, SplitModel

# What models call the key-value cache that they take and return: "cache" since transformers 5.24.
_CACHE = next(
    field.name
    for field in dataclasses.fields(CausalLMOutputWithPast)
    if field.name in ("cache", "past_key_values")
)

Send = Callable[[Tensor, Tensor], Tensor]
"""Takes what leaves a part [B, T, D], and which of it are real tokens [B, T], to the next part."""


def generator(split: SplitModel, sends: tuple[Send, ...] | None = None) -> PreTrainedModel:
    """A model whose `generate` runs the parts of `split`; `sends[i]` stands between part i and part i + 1.

    It is of the front's class, so that the search treats it as it treats the family, and shares its weights.

    >>> from splitcom.models import cut, load_model
    >>> ids = torch.tensor([[1, 2, 3]])
    >>> model = generator(cut(load_model("bundled"), cut=2))
    >>> model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4).shape
    torch.Size([1, 7])
    """
    model = copy.copy(split.front.model)
    family = type(model)
    model.__class__ = type(family.__name__, (_InParts, family), {})
    model.parts = split.parts
    model.sends = sends or tuple(_as_it_is for _ in split.parts[1:])
    model.takes_positions = "position_ids" in inspect.signature(family.forward).parameters
    return model


class _InParts:
    """Takes the place of a model's `generate` and `forward`."""

    parts: tuple[Part, ...]
    sends: tuple[Send, ...]
    takes_positions: bool

    def generate(self, **options: Any) -> Tensor:
        inherited = super().generate  # type: ignore[misc]
        if not _is_plain(_cache_of(self.parts[0])):
            return cast(Tensor, inherited(use_cache=False, **options))
        return cast(Tensor, inherited(**_cached(_SplitCache(self.parts)), **options))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Run the positions `input_ids` [B, T] after those in the caches; the mask [B, P + T] covers both.

        The search leaves the mask out if there is no padding.
        """
        cache: _SplitCache | None = options.get(_CACHE)
        whole = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        context: dict[str, Any] = {"position_ids": position_ids} if self.takes_positions else {}
        values = input_ids
        for index, part in enumerate(self.parts):
            if cache is not None:
                context |= _cached(cache.parts[index])
            values = part(values, attention_mask, **context)
            if cache is not None:
                _advance(cache.parts[index], part, (values.shape[0], values.shape[1]))
            if index < len(self.sends):
                values = self.sends[index](values, whole[:, -input_ids.shape[1] :])
        return CausalLMOutputWithPast(logits=values, **{_CACHE: cache})


class Continuation:
    """A text that grows by one token at a time in a front, which can try what any token would give next."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._text: list[int] = []
        self._cache = _cache_of(front) if _is_plain(_cache_of(front)) else None

    @torch.no_grad()
    def hidden_after(self, tokens: Tensor) -> Tensor:
        """The hidden states [N, D] that each of `tokens` [N], int64, would have in the next place."""
        if self._cache is None:
            before = tokens.new_tensor(self._text).expand(len(tokens), -1)
            texts = torch.cat([before, tokens[:, None]], 1)
            return cast(Tensor, self._front(texts, torch.ones_like(texts))[:, -1])
        cache = copy.deepcopy(self._cache)
        if self._text:
            cache.batch_repeat_interleave(len(tokens))
        found = self._front(tokens[:, None], None, **_cached(cache))
        return cast(Tensor, found[:, -1])

    def copy(self) -> "Continuation":
        """Another one of the same text, which goes on by itself."""
        other = copy.copy(self)
        other._text, other._cache = [*self._text], copy.deepcopy(self._cache)
        return other

    @torch.no_grad()
    def append(self, token: int) -> None:
        """Have the text go on with this token."""
        self._text.append(token)
        if self._cache is not None:
            ids = torch.tensor([[token]], device=next(self._front.parameters()).device)
            self._front(ids, None, **_cached(self._cache))
            _advance(self._cache, self._front, (1, 1))


class _SplitCache(DynamicCache):  # type: ignore[misc]
    """The parts' caches, for a search that reorders them all and asks how long they are."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        super().__init__()
        self.parts = [_cache_of(part) for part in parts]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.parts[0].get_seq_length(layer_idx))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        for cache in self.parts:
            cache.reorder_cache(beam_idx)


def _cache_of(part: Part) -> DynamicCache:
    return DynamicCache(config=part.model.config)


def _cached(cache: DynamicCache) -> dict[str, Any]:
    return {_CACHE: cache, "use_cache": True}


def _is_plain(cache: DynamicCache) -> bool:
    """Whether all it holds is keys and values; with other states there is no cache: every token sends all positions."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _advance(cache: DynamicCache, part: Part, shape: tuple[int, int]) -> None:
    """Let the layers of other parts count the positions too: models ask any of them for the length."""
    counted = torch.zeros(shape[0], 1, shape[1], 1, device=next(part.parameters()).device)
    for index in range(part.span.num_blocks):
        if not part.span.start <= index < part.span.stop:
            cache.update(counted, counted, index)


def _as_it_is(hidden: Tensor, _: Tensor) -> Tensor:
    return hidden
