"""What a model cannot be cut or adapted to is said before any text is encoded and any weight read."""

import logging

import pytest
from transformers import GPTJConfig, GPTJPreTrainedModel, MixtralConfig

from splitcom.config import Config
from splitcom.errors import AdapterError, ConfigError, CutError
from splitcom.parties.check import check_parts


@pytest.fixture
def gptj(tmp_path):
    GPTJConfig(vocab_size=32, n_embd=16, n_layer=3, n_head=2, rotary_dim=4, n_positions=32).save_pretrained(
        tmp_path
    )
    return Config().override({"model.source": str(tmp_path), "model.cut": 1})


def test_a_cut_outside_the_model_is_refused(gptj):
    check_parts(gptj)
    with pytest.raises(
        CutError, match=r"cut = 2 with model\.tail_blocks = 1 does not fit a model of 3 blocks"
    ):
        check_parts(gptj.override({"model.cut": 2, "model.tail_blocks": 1}))


def test_attention_that_the_family_lacks_is_refused(gptj, monkeypatch):
    monkeypatch.setattr(GPTJPreTrainedModel, "_supports_sdpa", False)  # as some families are
    with pytest.raises(ConfigError, match=r"model.attention = 'sdpa': models of type 'gptj' have none"):
        check_parts(gptj.override({"model.attention": "sdpa"}))


def test_unknown_targets_are_named(gptj):
    with pytest.raises(AdapterError, match=r"lora.targets: 'queries', 'v': gptj has no module .*'q_proj'"):
        check_parts(gptj.override({"lora.targets": ["q_proj", "queries", "v"]}))
    check_parts(gptj.override({"lora.targets": ["q_proj", "fc_in"]}))


def test_a_rank_beyond_the_width_is_warned_of(gptj, caplog):
    with caplog.at_level(logging.WARNING, logger="splitcom"):
        check_parts(gptj.override({"lora.rank": 16}))
        assert not caplog.records
        check_parts(gptj.override({"lora.rank": 17}))
    assert "lora.rank = 17 is more than the width of some modules, which is 16" in caplog.text
    with pytest.raises(ConfigError, match=r"lora.rank = 100000000 is more than the width of any module"):
        check_parts(gptj.override({"lora.rank": 100_000_000}))


@pytest.mark.parametrize(("dtype", "number"), [("float16", 1), ("bfloat16", 0), ("float32", 0)])
def test_training_in_fp16_is_warned_of_since_losses_are_not_scaled(gptj, dtype, number):
    warnings = check_parts(gptj.override({"model.dtype": dtype}))
    assert len(warnings) == number
    assert all("small gradients become 0" in text and "'bfloat16'" in text for text in warnings)


def test_an_auxiliary_loss_that_is_not_trained_is_said(tmp_path, caplog):
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    MixtralConfig(**sizes, **heads, output_router_logits=True).save_pretrained(tmp_path)
    [warning] = check_parts(Config().override({"model.source": str(tmp_path), "model.cut": 1}))
    assert warning in caplog.text
    assert "auxiliary loss of its router is not trained" in caplog.text
