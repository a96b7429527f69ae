"""Tiny random causal LMs of any family that transformers has, for the tests that cut them."""

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

VOCAB_SIZE = 64
NUM_BLOCKS = 4

# Applied to every family whose configuration knows the name.
_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "num_hidden_layers": NUM_BLOCKS,
    "n_layer": NUM_BLOCKS,
    "n_layers": NUM_BLOCKS,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "rotary_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 4,
    "attention_window": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}

_MIXED = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
_RECURRENT = ["linear_attention", "full_attention"] * 2
_LATENT = {
    "num_key_value_heads": 4,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 4,
}
_DELTA = {
    "layer_types": _RECURRENT,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

# What a family needs beside, or what makes its blocks differ from one another, by name of the case.
CASES: dict[str, dict[str, object]] = {
    "gpt2": {},
    "gpt2:scaled_by_layer": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 4},
    "gpt_neox": {},
    "gptj": {},
    "opt": {},
    "opt:projected": {"word_embed_proj_dim": 16},
    "opt:post_norm": {"do_layer_norm_before": False},
    "bloom": {},
    "falcon": {},
    "falcon:alibi": {"alibi": True},
    "falcon:new": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "llama": {},
    "llama:tied_dynamic_rope": {
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "dynamic",
            "rope_theta": 1e4,
            "factor": 2.0,
            "original_max_position_embeddings": 8,
        },
        "max_position_embeddings": 8,
    },
    "mistral": {},
    "mixtral": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3_moe": {"mlp_only_layers": [0, 2]},
    "qwen3_moe:sparse_step": {"decoder_sparse_step": 2},
    "gemma": {},
    "gemma2": {"layer_types": _MIXED},
    "gemma3_text": {"layer_types": _MIXED},
    "phi": {},
    "phi3": {},
    "olmo2": {},
    "granite": {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.2},
    "starcoder2": {},
    "stablelm": {"use_parallel_residual": True},
    "cohere": {},
    "smollm3": {"use_sliding_window": True, "layer_types": _MIXED, "no_rope_layers": [1, 0, 1, 1]},
    "mpt": {},
}

# Families whose tiny configuration needs nothing but the common values.
_PLAIN = """
    afmoe apertus arcee aria_text biogpt bitnet codegen cohere2 cohere2_moe ctrl cwm diffllama doge
    ernie4_5 ernie4_5_moe exaone4 exaone_moe flex_olmo glm glm4 glm4_moe gpt_bigcode gpt_neox_japanese
    gpt_oss granitemoe granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe jais2 jetmoe lfm2
    llama4_text mellum mimo_v2_flash minimax_m2 ministral ministral3 modernbert-decoder moshi nanochat
    nemotron olmo olmo3 olmoe openai-gpt persimmon phimoe qwen2_moe recurrent_gemma seed_oss solar_open
    vaultgemma xglm
""".split()  # noqa: SIM905

OTHER_CASES: dict[str, dict[str, object]] = {
    **{name: {} for name in _PLAIN},
    "bamba": dict(**_MAMBA2, attn_layer_indices=[1, 3]),
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "dots1": {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    },
    "falcon_h1": dict(**_MAMBA2, mamba_d_ssm=64),
    "gemma4_text": {
        "num_kv_shared_layers": 0,
        "layer_types": [*_MIXED[:3], "full_attention"],
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 0,
    },
    "glm4_moe_lite": _LATENT,
    "granitemoehybrid": dict(**_MAMBA2, layer_types=["mamba", "attention"] * 2),
    "jamba": {"mamba_d_state": 8, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mamba": {},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 4},
    "minicpm3": _LATENT,
    "minimax": {"layer_types": _RECURRENT, "block_size": 4},
    "qwen3_5_text": _DELTA,
    "qwen3_next": dict(**_DELTA, shared_expert_intermediate_size=16),
    "roberta": {"is_decoder": True},
}

# What people fine-tune in 2025 and 2026: Qwen3, Gemma 3, Llama 4, Phi-4, gpt-oss, SmolLM3, Olmo 3, GLM 4, Granite 4.
RECENT = {
    name: {**CASES, **OTHER_CASES}[name]
    for name in (
        *("qwen3", "qwen3_moe", "gemma3_text", "llama4_text", "phi3", "gpt_oss", "smollm3", "olmo3", "glm4"),
        *("granite", "granitemoehybrid"),
    )
}

# As sequence classifiers: encoders, and the decoders above for which transformers has such a class.
CLASSIFIERS: dict[str, dict[str, object]] = {
    **{
        name: {}
        for name in ("bert", "roberta", "xlm-roberta", "deberta-v2", "modernbert", "mpnet", "rembert")
    },
    "distilbert": {"dim": 32, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    **{
        name: options
        for name, options in {**CASES, **OTHER_CASES}.items()
        if CONFIG_MAPPING[name.partition(":")[0]] in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        and "is_decoder" not in options
    },
}

REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "deepseek_v4": ({}, "same arguments of the blocks from token ids and from embeddings"),
    "gemma3n_text": (
        {
            "num_kv_shared_layers": 0,
            "layer_types": _MIXED,
            "intermediate_size": [48] * 4,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.0] * 4,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 64,
        },
        "block 0 gets more activations",
    ),
    "gemma4_text": (
        {"num_kv_shared_layers": 2, "layer_types": _MIXED[1:3] * 2, "global_head_dim": 8},
        "num_kv_shared_layers",
    ),
    "hrm_text": ({}, "one list of 32 blocks"),
    "opt": ({"layerdrop": 0.1}, "layerdrop"),
    "rwkv": ({}, "attention"),
    "zamba2": (
        {
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "mamba_d_state": 8,
            "mamba_headdim": 8,
            "mamba_ngroups": 1,
            "chunk_size": 4,
            "n_mamba_heads": 8,
            "num_mem_blocks": 1,
        },
        "blocks 1 and 3 of model.layers share",
    ),
}


def tiny_config(case: str, options: dict[str, object], attention: str = "eager") -> PreTrainedConfig:
    """Make a configuration of four blocks and 32 hidden dimensions; `case` is a model type, with a remark after ":"."""
    config_class = CONFIG_MAPPING[case.partition(":")[0]]
    known = config_class()
    common = {name: value for name, value in _COMMON.items() if _settable(known, name)}
    config = config_class(**{**common, **options})
    config._attn_implementation = attention
    return config


def _settable(config: PreTrainedConfig, name: str) -> bool:
    if isinstance(getattr(type(config), name, None), property):
        return False
    try:
        return hasattr(config, name)
    except Exception:  # transformers' own type: the value differs between layers
        return False


def tiny_model(case: str, options: dict[str, object], attention: str = "eager") -> PreTrainedModel:
    """Make a random model whose norms, biases and attention are far from their trivial initial values."""
    config = tiny_config(case, options, attention)
    return _random(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)


def tiny_classifier(case: str, options: dict[str, object], num_labels: int) -> PreTrainedModel:
    """Make a random sequence classifier like `tiny_model`."""
    config = tiny_config(case, options)
    config.num_labels = num_labels
    return _random(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)], config)


def _random(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = model_class._from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
            else:
                parameter.mul_(3)
    return model


def right_padded_batch(num_tokens: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of three texts, two of them padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCAB_SIZE, (3, num_tokens), generator=generator)
    mask = torch.arange(num_tokens) < torch.tensor([[num_tokens], [6], [2]])
    return ids * mask, mask.long()


def loss_of(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Next-token cross entropy over real tokens; of a classifier's logits, cross entropy over texts."""
    if logits.dim() == 2:
        return nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])
    labels = ids.masked_fill(mask == 0, -100)[:, 1:]
    return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels)
