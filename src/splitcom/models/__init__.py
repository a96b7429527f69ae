"""How a model is cut into parts, loaded part by part and given adapters; knows no data and no traffic."""

from splitcom.models.adapters import (
    adapter_state,
    add_lora,
    export_adapter,
    joined_state,
    load_adapted,
    load_adapter_state,
    load_joined_state,
    merge_adapter,
    renew_head,
)
from splitcom.models.describe import Description, PartSize, describe, fingerprint
from splitcom.models.limits import ModelLimits, limits_of
from splitcom.models.load import load_body, load_config, load_front, load_model, load_tail, load_tokenizer
from splitcom.models.split import Body, Front, Part, SplitModel, Tail, cut, replicate, share_embeddings

__all__ = [
    "Body",
    "Description",
    "Front",
    "ModelLimits",
    "Part",
    "PartSize",
    "SplitModel",
    "Tail",
    "adapter_state",
    "add_lora",
    "cut",
    "describe",
    "export_adapter",
    "fingerprint",
    "joined_state",
    "limits_of",
    "load_adapted",
    "load_adapter_state",
    "load_body",
    "load_config",
    "load_front",
    "load_joined_state",
    "load_model",
    "load_tail",
    "load_tokenizer",
    "merge_adapter",
    "renew_head",
    "replicate",
    "share_embeddings",
]
