"""How large messages may be in a run, by kind: of what configuration and model leave possible.

A codec may need more bytes than the numbers take: at most twice their fp32, and some for each token and sample. Beside
that a message has a few fields of its own. Neither side believes a size beyond these, nor parses anything larger.
"""

from collections.abc import Mapping

from torch import Tensor

from splitcom.config import Config
from splitcom.protocol.labels import most_label_bytes
from splitcom.protocol.limits import LIMITS, SMALL_BYTES, KindLimits
from splitcom.training.adapters import num_rows_of
from splitcom.training.variance import num_sketch_bytes

_NUMBER_BYTES = 8
_TOKEN_BYTES = _SAMPLE_BYTES = 64
_MEMBER_BYTES = 128  # of a sum under masks: its keys, or a share that is sealed
_ID_BYTES = 10  # of a sample's number, as a varint of 64 bits


def limits_of(config: Config, hidden_size: int | None, adapter: Mapping[str, Tensor]) -> KindLimits:
    """The limits of a run; `hidden_size` is None if clients train the whole model and no activation travels."""
    rows, width = num_rows_of(adapter)
    limits = {kind: min(limit, SMALL_BYTES) for kind, limit in LIMITS.items()} | {
        "welcome": LIMITS["welcome"],
        **dict.fromkeys(("round_start", "round_end", "evaluation_start"), _packet(rows, len(adapter), width)),
    }
    limits["chunk_end"] = SMALL_BYTES + num_sketch_bytes(config.federation.variance)
    if config.federation.secure_aggregation is not None:
        masks = SMALL_BYTES + _MEMBER_BYTES * config.federation.clients
        limits |= dict.fromkeys(("mask_peers", "mask_shares", "mask_open", "mask_opened"), masks)
        limits["round_start"] += masks
    if hidden_size is None:
        return limits
    max_tokens, training, evaluation = (
        config.data.max_tokens, config.most_in_batch, config.evaluation.batch_size,
    )  # fmt: skip
    trained = _packet(training * max_tokens, training, hidden_size)
    held_out = _packet(evaluation * max_tokens, evaluation, hidden_size)
    return limits | {
        "activation": trained + most_label_bytes(training, max_tokens),
        **dict.fromkeys(("activation_up", "activation_down", "gradient_up", "gradient"), trained),
        "evaluation_batch": held_out + most_label_bytes(evaluation, max_tokens),
        **dict.fromkeys(("evaluation_up", "evaluation_down"), held_out),
        "reference_lost": SMALL_BYTES + _ID_BYTES * max(training, evaluation),
    }


def largest(limits: KindLimits) -> int:
    """What a connection must carry, in either direction."""
    return max(limits.values())


def _packet(num_tokens: int, num_samples: int, width: int) -> int:
    return (
        SMALL_BYTES
        + _NUMBER_BYTES * (num_tokens + 1) * width
        + _TOKEN_BYTES * num_tokens
        + _SAMPLE_BYTES * num_samples
    )
