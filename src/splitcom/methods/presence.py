"""Which tokens clients' texts have, by the adapters that they send: an attack on what the first block reads."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from splitcom.audit import occurring, share_named, told_apart
from splitcom.data import Sample
from splitcom.methods.crossing import Finding
from splitcom.models import Front

_PLACES = 4  # of which a token's inputs are a mean: learnt positions differ
_TOKENS_AT_A_TIME = 512
Adapter = Mapping[str, Tensor]


def tokens_told(
    front: Front,
    start: Adapter,
    updates: Mapping[str, Adapter],
    texts: Mapping[str, Sequence[Sample]],
    public: Sequence[Sample],
) -> Iterator[Finding]:
    """What each client's adapter tells of the tokens of its text, and of those that it alone has of two clients.

    Args:
        front: the first block alone, as `start` is.
        start: the adapter that clients began from.
        updates: what they made of it.
        texts: all that each of them has trained on.
        public: text of the kind, whose commonest tokens are the guess of somebody who sees no adapter.

    Nothing if no LoRA matrix reads embeddings, or the adapters have not been told of one.
    """
    inputs = read_of_tokens(front)
    if not inputs or not texts:
        return
    common = next(iter(inputs.values()))
    names = [f"{name}.lora_A.weight" for name, read in inputs.items() if torch.equal(read, common)]
    scores = {
        client: occurring(torch.cat([adapter[name].float() - start[name].float() for name in names]), common)
        for client, adapter in updates.items()
    }
    occurs = {client: _counts(texts[client], len(common)) > 0 for client in scores}
    guess = _counts(public, len(common)).double()
    told, chance = (
        [share_named(own[client], occurs[client]) for client in scores]
        for own in (scores, dict.fromkeys(scores, guess))
    )
    of = "one client's adapter"
    yield Finding(of, 0.0, "tokens of its text, of as many guesses", share=_mean(told), chance=_mean(chance))
    pairs = []
    for one, other in permutations(scores, 2):
        own, others = occurs[one] & ~occurs[other], occurs[other] & ~occurs[one]
        if own.any() and others.any():
            pairs.append(told_apart(scores[one][own].tolist(), scores[one][others].tolist()))
    if pairs:
        yield Finding(of, 0.0, "whose token, of pairs", share=_mean(pairs), chance=0.5)


@torch.no_grad()
def read_of_tokens(front: Front) -> dict[str, Tensor]:
    """What LoRA's matrices A read of each token of the vocabulary [V, D], by the name of their module.

    Only of those that read the token alone, and not those before it: of a Llama's first block q, k and v.
    """
    layers = {name: module for name, module in front.model.named_modules() if isinstance(module, LoraLayer)}
    caught: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: caught.update({name: given[0].detach()}))
        for name, layer in layers.items()
    ]
    try:
        behind = []
        for before in (0, 1):
            front(torch.tensor([[before, 2]]))
            behind.append({name: read[0, 1] for name, read in caught.items()})
        alone = [name for name in layers if torch.equal(behind[0][name], behind[1][name])]
        found: dict[str, list[Tensor]] = {name: [] for name in alone}
        every = torch.arange(front.model.get_input_embeddings().weight.shape[0])
        for tokens in torch.split(every, _TOKENS_AT_A_TIME):
            front(tokens[:, None].expand(-1, _PLACES))
            for name in alone:
                found[name].append(caught[name].float().mean(1))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(read) for name, read in found.items()}


def _counts(samples: Sequence[Sample], size: int) -> Tensor:
    return torch.bincount(torch.cat([sample.input_ids for sample in samples]), minlength=size)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
