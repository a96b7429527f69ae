"""How a model is cut into parts, loaded part by part and given adapters; knows no data and no traffic.

The names below are loaded when first used: settings need none of them, and transformers and peft take seconds.
"""

from typing import TYPE_CHECKING

from splitcom.lazy import lazy

if TYPE_CHECKING:
    from splitcom.models.adapter_folder import (
        check_adapter,
        copy_adapter,
        export_adapter,
        load_adapted,
        merge_adapter,
        read_adapter,
    )
    from splitcom.models.adapters import (
        adapter_state,
        add_lora,
        base_front,
        check_targets,
        joined_state,
        load_adapter_state,
        load_joined_state,
        renew_head,
        without_adapters,
    )
    from splitcom.models.description import Description, PartSize, describe, fingerprint
    from splitcom.models.existing import settings_of_adapter
    from splitcom.models.limits import ModelLimits, limits_of
    from splitcom.models.load import (
        load_body,
        load_config,
        load_front,
        load_generation_config,
        load_model,
        load_tail,
        load_tokenizer,
    )
    from splitcom.models.split import (
        Body,
        Front,
        Part,
        SplitModel,
        Tail,
        cut,
        recompute,
        replicate,
        share_embeddings,
        soft_prompt_ids,
    )

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
    "base_front",
    "check_adapter",
    "check_targets",
    "copy_adapter",
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
    "load_generation_config",
    "load_joined_state",
    "load_model",
    "load_tail",
    "load_tokenizer",
    "merge_adapter",
    "read_adapter",
    "recompute",
    "renew_head",
    "replicate",
    "settings_of_adapter",
    "share_embeddings",
    "soft_prompt_ids",
    "without_adapters",
]

_HOME = {
    "Body": "splitcom.models.split",
    "Description": "splitcom.models.description",
    "Front": "splitcom.models.split",
    "ModelLimits": "splitcom.models.limits",
    "Part": "splitcom.models.split",
    "PartSize": "splitcom.models.description",
    "SplitModel": "splitcom.models.split",
    "Tail": "splitcom.models.split",
    "adapter_state": "splitcom.models.adapters",
    "add_lora": "splitcom.models.adapters",
    "base_front": "splitcom.models.adapters",
    "check_adapter": "splitcom.models.adapter_folder",
    "copy_adapter": "splitcom.models.adapter_folder",
    "check_targets": "splitcom.models.adapters",
    "cut": "splitcom.models.split",
    "describe": "splitcom.models.description",
    "export_adapter": "splitcom.models.adapter_folder",
    "fingerprint": "splitcom.models.description",
    "joined_state": "splitcom.models.adapters",
    "limits_of": "splitcom.models.limits",
    "load_adapted": "splitcom.models.adapter_folder",
    "load_adapter_state": "splitcom.models.adapters",
    "load_body": "splitcom.models.load",
    "load_config": "splitcom.models.load",
    "load_front": "splitcom.models.load",
    "load_generation_config": "splitcom.models.load",
    "load_joined_state": "splitcom.models.adapters",
    "load_model": "splitcom.models.load",
    "load_tail": "splitcom.models.load",
    "load_tokenizer": "splitcom.models.load",
    "merge_adapter": "splitcom.models.adapter_folder",
    "read_adapter": "splitcom.models.adapter_folder",
    "recompute": "splitcom.models.split",
    "renew_head": "splitcom.models.adapters",
    "replicate": "splitcom.models.split",
    "settings_of_adapter": "splitcom.models.existing",
    "share_embeddings": "splitcom.models.split",
    "soft_prompt_ids": "splitcom.models.split",
    "without_adapters": "splitcom.models.adapters",
}

__getattr__, __dir__ = lazy(__name__, _HOME)
