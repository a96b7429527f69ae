"""Modules trained whole on a cut model equal peft's on the uncut one; what cannot be trained by itself is refused."""

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from splitcom.config import Config
from splitcom.errors import AdapterError, ConfigError
from splitcom.models import (
    adapter_state,
    add_lora,
    cut,
    export_adapter,
    joined_state,
    load_adapter_state,
    load_joined_state,
    load_model,
    merge_adapter,
    read_adapter,
    settings_of_adapter,
    without_adapters,
)
from splitcom.models.whole import train_whole
from splitcom.parties.check import check_parts
from splitcom.parties.parts import (
    begin_from_adapter,
    front_of,
    load_parts,
    load_server_parts,
    with_adapter,
)

from .test_lora_forms import IDS, MASK, away, gradients

NAMES = ["embed_tokens", "norm", "lm_head"]


def split_of(model, tail_blocks):
    split = cut(model, 1, tail_blocks)
    for part in split.parts:
        add_lora(part, 4, 8, targets="all-linear")
        train_whole(part, NAMES)
        load_adapter_state(part, {name: away(name, tensor) for name, tensor in adapter_state(part).items()})
    return split


def config_of(model, **changes):
    options = {"model.source": str(model), "model.device": "cpu", "lora.modules_to_save": NAMES[::2]}
    return Config().override(options | changes)


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_they_give_pefts_logits_and_gradients_on_the_uncut_model(tiny_model, tmp_path, tail_blocks):
    split = split_of(load_model(tiny_model), tail_blocks)
    assert {"model.embed_tokens.weight"} == {
        name for name in adapter_state(split.front) if ".lora_" not in name
    }
    last = {name for name in adapter_state(split.parts[-1]) if ".lora_" not in name}
    assert last == {"model.norm.weight", "lm_head.weight"}

    export_adapter(tmp_path, tiny_model, *map(adapter_state, split.parts), cut=1, rank=4, alpha=8)
    whole = PeftModel.from_pretrained(load_model(tiny_model), str(tmp_path), is_trainable=True)
    theirs, ours = whole(IDS, MASK).logits, split(IDS, MASK)
    torch.testing.assert_close(
        ours, theirs, rtol=1e-6, atol=1e-6
    )  # torch.matmul of a frozen factor adds otherwise
    for logits in (ours, theirs):
        torch.autograd.backward(logits.square().mean())
    expected = gradients(whole)
    found = {name: grad for part in split.parts for name, grad in gradients(part.model).items()}
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-8, msg=name)

    with without_adapters(split.parts):
        assert torch.equal(split(IDS, MASK), load_model(tiny_model)(IDS, MASK, use_cache=False).logits)
    merge_adapter(tmp_path, tiny_model, tmp_path / "merged")
    merged = load_model(tmp_path / "merged")(IDS, MASK).logits
    assert torch.allclose(merged[MASK.bool()], theirs[MASK.bool()], atol=1e-4)


def test_a_run_can_begin_from_them(tiny_model, tmp_path):
    split = split_of(load_model(tiny_model), 0)
    export_adapter(tmp_path, tiny_model, *map(adapter_state, split.parts), cut=1, rank=4, alpha=8)
    assert settings_of_adapter(tmp_path)["modules_to_save"] == ["lm_head", "model.embed_tokens", "model.norm"]
    config = with_adapter(
        config_of(tiny_model, **{"lora.init": str(tmp_path), "lora.modules_to_save": None, "model.cut": 1})
    )
    parts = load_parts(config)
    begin_from_adapter(parts, config)
    expected = read_adapter(tmp_path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in joined_state(parts.all).items())


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_they_are_float32_on_a_base_of_16_bits_which_stays_as_it_is(tiny_model, tail_blocks):
    split = split_of(load_model(tiny_model, torch.bfloat16), tail_blocks)
    hidden = IDS
    for part in split.parts:
        assert {p.dtype for p in part.parameters() if p.requires_grad} == {torch.float32}
        assert part.dtype == torch.bfloat16
        hidden = part(hidden, MASK)
        assert hidden.dtype == (torch.float32 if part is split.parts[-1] else torch.bfloat16)


def test_a_server_that_holds_no_front_begins_with_what_clients_have(tiny_model):
    config = config_of(tiny_model, **{"model.tail_blocks": 1})
    served = load_server_parts(config)
    own = adapter_state(front_of(config))
    assert {"model.embed_tokens.weight"} == {name for name in own if ".lora_" not in name}
    assert all(torch.equal(tensor, own[name]) for name, tensor in adapter_state(served.front).items())
    load_joined_state([served.front], own)  # outlines whose copies have memory of their own


def test_what_cannot_be_trained_by_itself_is_refused(tiny_model, tmp_path):
    with pytest.raises(
        AdapterError, match="'wte': llama has no such module outside its blocks; name some of"
    ):
        check_parts(config_of(tiny_model, **{"lora.modules_to_save": ["wte"]}))
    with pytest.raises(AdapterError, match="'q_proj': llama has no such module outside its blocks"):
        check_parts(config_of(tiny_model, **{"lora.modules_to_save": ["q_proj"]}))
    with pytest.raises(ConfigError, match="set one"):
        check_parts(config_of(tiny_model, **{"lora.train_head": True}))
    tied = load_model(tiny_model).config
    tied.tie_word_embeddings = True
    LlamaForCausalLM(tied).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="tie_word_embeddings = False and a head of its own"):
        check_parts(config_of(tmp_path))
    assert any("million numbers are trained whole" in text for text in check_parts(config_of(tiny_model)))
