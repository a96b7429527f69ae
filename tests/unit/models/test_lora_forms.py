"""Every form of LoRA on a cut model equals peft's on the uncut one, gradients included; export, file and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.engines.engine import Arrival
from splitcom.engines.local import LocalEngine
from splitcom.errors import AdapterError, ConfigError, CutError, ModelError
from splitcom.models import (
    SplitModel,
    adapter_state,
    add_lora,
    check_adapter,
    copy_adapter,
    cut,
    export_adapter,
    load_adapter_state,
    load_body,
    load_config,
    load_joined_state,
    load_model,
    load_tokenizer,
    merge_adapter,
    quantised,
    read_adapter,
    recompute,
    replicate,
    settings_of_adapter,
)
from splitcom.parties import check
from splitcom.parties.check import check_parts

IDS = torch.tensor([[5, 6, 7, 8, 4, 3], [9, 5, 4, 3, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
FORMS = {
    "rslora": {"use_rslora": True, "targets": ["q_proj", "v_proj"]},
    "dora": {"use_dora": True, "targets": ["q_proj", "down_proj"]},
    "all-linear": {"targets": "all-linear"},
    "expression": {"targets": r".*\.layers\.\d+\.(self_attn\.o|mlp\.up)_proj"},
}


def away(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor + 0.1 * torch.randn(
        tensor.shape, generator=torch.Generator().manual_seed(sum(name.encode()))
    )


def split_of(model: PreTrainedModel, form: dict, tail_blocks: int) -> SplitModel:
    split = cut(model, 1, tail_blocks)
    for part in split.parts:
        add_lora(
            part,
            4,
            8,
            targets=form["targets"],
            rslora=form.get("use_rslora", False),
            dora=form.get("use_dora", False),
        )
        load_adapter_state(part, {name: away(name, tensor) for name, tensor in adapter_state(part).items()})
    return split


def joined(split: SplitModel) -> dict[str, torch.Tensor]:
    return {name: tensor for part in split.parts for name, tensor in adapter_state(part).items()}


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize("tail_blocks", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_pefts_logits_and_gradients_on_the_uncut_model(
    tiny_model: Path, tmp_path: Path, form: str, tail_blocks: int
) -> None:
    split = split_of(load_model(tiny_model), FORMS[form], tail_blocks)
    states = [adapter_state(part) for part in split.parts]
    export_adapter(
        tmp_path, tiny_model, *states, cut=1, rank=4, alpha=8, rslora=form == "rslora", dora=form == "dora"
    )
    whole = PeftModel.from_pretrained(load_model(tiny_model), str(tmp_path), is_trainable=True)
    theirs, ours = whole(IDS, MASK).logits, split(IDS, MASK)
    assert torch.equal(ours, theirs)
    for logits in (ours, theirs):
        torch.autograd.backward(logits.float().square().mean())
    expected = gradients(whole)
    found = {name: grad for part in split.parts for name, grad in gradients(part.model).items()}
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        assert torch.allclose(grad, expected[name], rtol=1e-5, atol=1e-9), name

    settings = settings_of_adapter(tmp_path)
    assert settings["rank"] == 4 and settings["alpha"] == 8
    assert settings["use_rslora"] == (form == "rslora") and settings["use_dora"] == (form == "dora")
    again = split_of(load_model(tiny_model), FORMS[form] | {"targets": settings["targets"]}, tail_blocks)
    load_joined_state(again.parts, read_adapter(tmp_path))
    assert all(torch.equal(tensor, joined(split)[name]) for name, tensor in joined(again).items())

    merge_adapter(tmp_path, tiny_model, tmp_path / "merged")
    merged = load_model(tmp_path / "merged")(IDS, MASK).logits
    assert torch.allclose(merged[MASK.bool()], theirs[MASK.bool()], atol=1e-4)


def test_all_linear_is_what_peft_takes(tiny_model: Path) -> None:
    split = cut(load_model(tiny_model), 2, 1)
    for part in split.parts:
        add_lora(part, 2, targets="all-linear")
    whole = get_peft_model(
        load_model(tiny_model), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    assert joined(split).keys() == gradients(whole).keys()


def test_an_adapter_that_parts_cannot_go_on_with_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], rank_pattern={"layers.0.self_attn.q_proj": 3})
    get_peft_model(load_model(tiny_model), config).save_pretrained(tmp_path / "odd")
    with pytest.raises(AdapterError, match=r"rank_pattern = .* is not supported; merge it"):
        settings_of_adapter(tmp_path / "odd")
    with pytest.raises(AdapterError, match="no PEFT adapter to be found"):
        settings_of_adapter(tmp_path / "none")


@pytest.mark.parametrize("dora", [False, True])
def test_what_is_trained_is_float32_on_a_base_of_16_bits(tiny_model: Path, dora: bool) -> None:
    split = cut(load_model(tiny_model, torch.bfloat16), 1, 1)
    hidden = IDS
    for part in split.parts:
        add_lora(part, 2, targets="all-linear", dora=dora)
        assert {p.dtype for p in part.parameters() if p.requires_grad} == {torch.float32}
        hidden = part(hidden, MASK)
    torch.autograd.backward(hidden.float().square().mean())
    for part in split.parts:
        assert {p.grad.dtype for p in part.parameters() if p.requires_grad} == {torch.float32}


def test_an_optimizer_keeps_what_16_bits_would_lose(tiny_model: Path) -> None:
    config = Config().override(
        {"model.source": str(tiny_model), "training.lr": 1e-7, "training.weight_decay": 0}
    )
    body = load_body(tiny_model, 2, dtype=torch.bfloat16)
    add_lora(body, 2, targets="all-linear")
    engine, before = LocalEngine(body, config), adapter_state(body)
    labels = [np.array([5, 6, 7, 8])]
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    decoded = Decoded(Ragged(hidden, torch.tensor([4])), [0], torch.zeros(1, dtype=torch.bool))
    for step in range(3):
        engine.step({"a": Arrival(decoded, labels)}, (1, step), 0.5)
    assert {tensor.dtype for tensor in engine.state().values()} == {torch.float32}
    moved = {name: tensor - before[name] for name, tensor in engine.adapter().items()}
    assert all(0 < tensor.abs().max() < 1e-6 for name, tensor in moved.items() if ".lora_B." in name)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_body_learns_as_the_whole_one(tmp_path: Path, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, **shape)).save_pretrained(tmp_path)
    config = Config().override({"model.source": str(tmp_path), "training.lr": 1e-2})
    hidden = torch.randn(9, 128, generator=torch.Generator().manual_seed(0))
    decoded = Decoded(Ragged(hidden, torch.tensor([9])), [0], torch.zeros(1, dtype=torch.bool))
    losses, sizes = [], []
    for kind in (None, quantization):
        body = load_body(tmp_path, 2, dtype=torch.bfloat16, quantization=kind)
        sizes.append(sum(p.nbytes for block in body.blocks for p in block.parameters()))
        add_lora(body, 2, targets="all-linear")
        engine = LocalEngine(body, config)
        arrival = Arrival(decoded, [np.arange(9)])
        losses.append([engine.step({"a": arrival}, (1, step), 0.5)["a"].loss_sum for step in range(6)])
        assert {tensor.dtype for tensor in engine.state().values()} == {torch.float32}
    assert sizes[1] < sizes[0] * {"8bit": 0.6, "4bit": 0.35}[quantization]
    assert losses[0][-1] < losses[0][0] - 2
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_what_few_bits_would_need_or_spoil_is_refused(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config().override({"model.source": str(tiny_model), "model.device": "cpu"})
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"bitsandbytes is not installed: pip install 'splitcom\[quant\]'"):
        check_parts(config.override({"model.quantization": "4bit"}))
    placed = {"engine.kind": "placed", "engine.devices": ["cpu"], "model.quantization": "8bit"}
    with pytest.raises(ConfigError, match="stay on the device that they are loaded on"):
        check_parts(config.override(placed))
    half = config.override({"model.dtype": "float16"})
    assert any("losses are not scaled" in text for text in check_parts(half))
    monkeypatch.setattr(check, "device_of", lambda config: torch.device("cuda"))
    with pytest.raises(ConfigError, match="losses are not scaled"):
        check_parts(half)


def test_an_adapter_is_copied_in_the_format_asked_for_and_a_merge_keeps_its_bases(
    tiny_model: Path, tmp_path: Path
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    load_model(tiny_model, torch.bfloat16).save_pretrained(base)
    load_tokenizer(tiny_model).save_pretrained(base)
    split = split_of(load_model(base), FORMS["all-linear"], 0)
    export_adapter(adapter, base, *map(adapter_state, split.parts), cut=1, rank=4, alpha=8)
    copy_adapter(adapter, base, tmp_path / "copy", torch.bfloat16)
    check_adapter(base, tmp_path / "copy")
    exact = read_adapter(adapter)
    assert all(torch.equal(t, exact[name].bfloat16()) for name, t in read_adapter(tmp_path / "copy").items())
    merge_adapter(adapter, base, tmp_path / "merged")
    assert {tensor.dtype for tensor in load_file(tmp_path / "merged" / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_blocks_that_are_computed_once_more_give_the_same_gradients(tiny_model: Path) -> None:
    found = []
    for again in (False, True):
        split = split_of(load_model(tiny_model), FORMS["all-linear"], 1)
        parts = [replicate(part).train() for part in split.parts]
        runs, hidden = [], IDS
        for part in parts:
            if again:
                recompute(part)
            for block in part.blocks:
                block.mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
            hidden = part(hidden, MASK)
        torch.autograd.backward(hidden.square().mean())
        found.append(({name: g for part in parts for name, g in gradients(part.model).items()}, len(runs)))
    (plain, once), (checkpointed, twice) = found
    assert (once, twice) == (4, 8)
    assert all(torch.equal(grad, plain[name]) for name, grad in checkpointed.items())


def test_a_family_that_cannot_checkpoint_says_so(tiny_model: Path) -> None:
    front = cut(load_model(tiny_model), 1).front
    front.blocks[0].__class__ = type("Plain", (torch.nn.Module,), {})
    with pytest.raises(CutError, match="not made for it"):
        recompute(front)


def test_weights_that_are_stored_quantised_are_refused_before_they_are_read(
    tiny_model: Path, tmp_path: Path
) -> None:
    text = (tiny_model / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        text.replace(
            "{", '{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true},', 1
        )
    )
    with pytest.raises(ModelError, match="stored quantised"):
        load_config(tmp_path)
