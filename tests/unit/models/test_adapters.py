"""LoRA states: where they come from, where they fit, and what they become on disk."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, CTRLConfig

from splitcom.errors import AdapterError
from splitcom.models import (
    SplitModel,
    adapter_state,
    add_lora,
    cut,
    export_adapter,
    load_adapted,
    load_adapter_state,
    load_model,
    merge_adapter,
)

RANK, ALPHA = 2, 8
IDS = torch.tensor([[5, 6, 7, 8], [9, 5, 4, 3]])


def lora_split(base: Path, at: int, tail_blocks: int = 0, seed: int = 0, rank: int = RANK) -> SplitModel:
    split = cut(load_model(base), at, tail_blocks)
    for part in split.parts:
        add_lora(part, rank, ALPHA, seed=seed)
    return split


def joined(split: SplitModel) -> dict[str, Tensor]:
    return {name: tensor for part in split.parts for name, tensor in adapter_state(part).items()}


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 0.1 for name, tensor in state.items()}


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**63), at=st.integers(1, 3))
def test_the_start_depends_on_the_seed_alone_not_on_the_cut(tiny_model: Path, seed: int, at: int) -> None:
    here, there = joined(lora_split(tiny_model, at, seed=seed)), joined(lora_split(tiny_model, 1, 1, seed))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)
    factors = [tensor for name, tensor in here.items() if name.endswith("lora_A.weight")]
    assert len({tuple(tensor.flatten().tolist()) for tensor in factors}) == len(factors)
    assert all(not tensor.any() for name, tensor in here.items() if name.endswith("lora_B.weight"))
    other = joined(lora_split(tiny_model, at, seed=seed + 1))
    assert not any(torch.equal(here[name], other[name]) for name in here if "lora_A" in name)


def test_states_are_sorted_copies_with_the_whole_models_names(tiny_model: Path) -> None:
    split = lora_split(tiny_model, 2)
    state = adapter_state(split.body)
    assert list(state) == sorted(state)
    assert {name.split(".")[2] for name in state} == {"2", "3"}
    next(iter(state.values())).add_(1)
    assert not torch.equal(next(iter(state.values())), next(iter(adapter_state(split.body).values())))
    load_adapter_state(split.body, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in adapter_state(split.body).items())


def test_a_state_that_does_not_fit_changes_nothing(tiny_model: Path) -> None:
    split = lora_split(tiny_model, 2)
    before = adapter_state(split.front)
    with pytest.raises(AdapterError, match="only one of them has"):
        load_adapter_state(split.front, adapter_state(split.body))
    narrow = {name: tensor[..., :1] for name, tensor in shifted(before).items()}
    with pytest.raises(AdapterError, match="has shape"):
        load_adapter_state(split.front, narrow)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_state(split.front).items())


def test_rank_zero_adds_nothing_and_lora_is_added_once(tiny_model: Path) -> None:
    front = cut(load_model(tiny_model), 2).front
    add_lora(front, rank=0)
    assert adapter_state(front) == {}
    assert not any(parameter.requires_grad for parameter in front.parameters())
    add_lora(front, RANK)
    with pytest.raises(AdapterError, match="already"):
        add_lora(front, RANK)


@pytest.mark.parametrize("options", [{"rank": -1}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_sizes_are_refused(tiny_model: Path, options: dict[str, float]) -> None:
    with pytest.raises(AdapterError, match="expected rank >= 0 and 0 <= dropout < 1"):
        add_lora(cut(load_model(tiny_model), 2).front, **options)


@pytest.mark.parametrize("targets", [["query"], "nothing.*", ["embed_tokens"], ["q_proj", "embed_tokens"]])
def test_targets_outside_the_blocks_are_refused_before_anything_changes(
    tiny_model: Path, targets: list[str] | str
) -> None:
    front = cut(load_model(tiny_model), 2).front
    with pytest.raises(AdapterError, match=r"name some of \['down_proj', 'gate_proj', 'k_proj'"):
        add_lora(front, targets=targets)
    assert adapter_state(front) == {}


def test_targets_may_be_names_or_an_expression(tiny_model: Path) -> None:
    by_name, by_expression = (cut(load_model(tiny_model), 2).front for _ in range(2))
    add_lora(by_name, targets=["gate_proj", "up_proj"])
    add_lora(by_expression, targets=r".*\.(gate|up)_proj")
    assert list(adapter_state(by_name)) == list(adapter_state(by_expression)) != []


@pytest.mark.parametrize(("at", "tail_blocks"), [(1, 0), (2, 1)])
def test_the_exported_adapter_gives_the_split_models_logits(
    tiny_model: Path, tmp_path: Path, at: int, tail_blocks: int
) -> None:
    split = lora_split(tiny_model, at, tail_blocks)
    for part in split.parts:
        load_adapter_state(part, shifted(adapter_state(part)))
    export_adapter(tmp_path, tiny_model, *map(adapter_state, split.parts), cut=at, rank=RANK, alpha=ALPHA)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (RANK, ALPHA, "CAUSAL_LM")
    with torch.no_grad():
        logits = split(IDS)
        tuned = load_adapted(tiny_model, tmp_path).eval()
        assert torch.equal(tuned(IDS).logits, logits)
        assert not torch.equal(load_model(tiny_model)(IDS).logits, logits)


def test_lora_on_16_bit_weights_is_float32_as_in_peft(tiny_model: Path, tmp_path: Path) -> None:
    base = load_model(tiny_model, dtype=torch.bfloat16)
    split = cut(base, 2)
    for part in split.parts:
        add_lora(part, RANK, ALPHA)
        load_adapter_state(part, shifted(adapter_state(part)))
        assert {p.dtype for p in part.parameters() if p.requires_grad} == {torch.float32}
    export_adapter(tmp_path, tiny_model, *map(adapter_state, split.parts), cut=2, rank=RANK, alpha=ALPHA)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        tuned = PeftModel.from_pretrained(base, tmp_path)
    with torch.no_grad():
        logits = split(IDS)
        assert logits.dtype == torch.bfloat16
        assert torch.equal(tuned(IDS).logits, logits)


def test_a_frozen_front_is_absent_from_the_adapter_and_stays_so_when_merged(
    tiny_model: Path, tmp_path: Path
) -> None:
    split = cut(load_model(tiny_model), 2)
    add_lora(split.body, RANK, ALPHA)
    load_adapter_state(split.body, shifted(adapter_state(split.body)))
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    export_adapter(adapter, tiny_model, {}, adapter_state(split.body), cut=2, rank=RANK, alpha=ALPHA)
    assert all(int(name.split(".")[4]) >= 2 for name in load_file(adapter / "adapter_model.safetensors"))
    merge_adapter(adapter, tiny_model, merged)
    with torch.no_grad():
        torch.testing.assert_close(load_model(merged)(IDS).logits, split(IDS), atol=1e-4, rtol=1e-4)
    assert (merged / "tokenizer.json").is_file()


def test_states_that_are_not_those_of_the_parts_are_not_exported(tiny_model: Path, tmp_path: Path) -> None:
    split = lora_split(tiny_model, 2)
    front, body = map(adapter_state, split.parts)
    sizes = {"cut": 2, "rank": RANK, "alpha": ALPHA}
    with pytest.raises(AdapterError, match="nothing to export"):
        export_adapter(tmp_path / "out", tiny_model, {}, {}, **sizes)
    with pytest.raises(AdapterError, match="cut = 2 puts block"):
        export_adapter(tmp_path / "out", tiny_model, body, front, **sizes)
    with pytest.raises(AdapterError, match=r"expected \[4, "):
        export_adapter(tmp_path / "out", tiny_model, front, body, **{**sizes, "rank": 4})
    foreign = {name.replace("q_proj", "c_attn"): tensor for name, tensor in front.items()}
    with pytest.raises(AdapterError, match="no linear module"):
        export_adapter(tmp_path / "out", tiny_model, foreign, body, **sizes)
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_does_not_fit_is_not_loaded(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no PEFT adapter that fits"):
        load_adapted(tiny_model, tmp_path)
    split = lora_split(tiny_model, 2)
    export_adapter(tmp_path, tiny_model, *map(adapter_state, split.parts), cut=2, rank=RANK, alpha=ALPHA)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    whole = dict(tensors)
    del tensors[next(iter(tensors))]
    save_file(tensors, file)
    (tmp_path / "checksums.json").unlink()  # somebody has changed it on purpose
    with pytest.raises(AdapterError, match="differ in 1 tensors"):
        load_adapted(tiny_model, tmp_path)
    save_file({name: tensor[..., :-1].contiguous() for name, tensor in whole.items()}, file)
    with pytest.raises(AdapterError, match=r"no PEFT adapter that fits"):
        load_adapted(tiny_model, tmp_path)


def test_modules_whose_names_are_numbers_are_not_taken_for_blocks(tmp_path: Path) -> None:
    """CTRL's feed-forward layers are called "0" and "2", as its blocks are."""
    config = CTRLConfig(vocab_size=64, n_embd=16, dff=24, n_layer=4, n_head=2, n_positions=32)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    split = lora_split(tmp_path / "base", 2)
    assert any(".ffn.0." in name for name in joined(split))
    export_adapter(
        tmp_path / "out", tmp_path / "base", *map(adapter_state, split.parts), cut=2, rank=RANK, alpha=ALPHA
    )
    assert load_adapted(tmp_path / "base", tmp_path / "out").peft_config["default"].r == RANK
