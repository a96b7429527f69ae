"""Every form of LoRA on a cut model equals peft's on the uncut one, gradients included; export, file and back."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from splitcom.errors import AdapterError, CutError, ModelError
from splitcom.models import (
    SplitModel,
    adapter_state,
    add_lora,
    cut,
    export_adapter,
    load_adapter_state,
    load_config,
    load_joined_state,
    load_model,
    merge_adapter,
    read_adapter,
    recompute,
    replicate,
    settings_of_adapter,
)

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
    parts = [adapter_state(part) for part in split.parts]
    export_adapter(
        tmp_path, tiny_model, *parts, cut=1, rank=4, alpha=8, rslora=form == "rslora", dora=form == "dora"
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
