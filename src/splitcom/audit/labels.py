"""Labels in the U-shape, from the gradient at the tail's input: what the server is sent in place of them.

    gradient at token t  =  what its own label gives  +  what later tokens' labels give through attention

From the last token to the first: the label is the one whose gradient through the known tail is nearest to what has
arrived, less what the labels that are known already give. Exact in principle for a tail that is known, since a label's
gradient is that of a softmax less one row of the head (as iDLG, 2001.02610, for images).
"""

import torch
from torch import Tensor

from splitcom.models import Tail

_SMALLEST = 0.05  # of the median norm: a token of smaller gradient has no label of its own


def recovered_labels(tail: Tail, hidden: Tensor, gradient: Tensor) -> Tensor:
    """The labels [T] that the tokens of one sample predict, the next token's; -1 where there is none.

    Args:
        tail: as the server knows it, in evaluation mode.
        hidden: [T, D], what the server has sent to the tail.
        gradient: [T, D], of the sum of the labels' losses, there.
    """
    inputs = hidden.detach().float()[None].requires_grad_()
    head, last = tail.model.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda _, given, __: last.append(given[0]))
    try:
        logits = tail(inputs, torch.ones(inputs.shape[:2], dtype=torch.int64))[0].float()
    finally:
        handle.remove()
    before_head, weights = last[0][0], head.weight.detach().float()
    rest, least = gradient.detach().float().clone(), _SMALLEST * float(gradient.norm(dim=1).median())
    found = torch.full((len(hidden),), -1)
    for place in reversed(range(len(hidden))):
        if float(rest[place].norm()) <= least:
            continue
        identity = torch.eye(before_head.shape[1])
        (jacobian,) = torch.autograd.grad(
            before_head[place], inputs, identity, retain_graph=True, is_grads_batched=True
        )
        own = jacobian[:, 0, place].float()
        expected = torch.softmax(logits[place], 0).detach() @ weights
        wanted = (expected - weights) @ own
        found[place] = int((wanted - rest[place]).square().sum(1).argmin())
        loss = logits[place].logsumexp(0) - logits[place, found[place]]
        (given,) = torch.autograd.grad(loss, inputs, retain_graph=True)
        rest -= given[0]
    return found
