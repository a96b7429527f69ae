"""A cut model equals the uncut one bit for bit: logits and all LoRA gradients, in fp32 on the CPU."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from splitcom.errors import CutError
from splitcom.models import (
    Body,
    SplitModel,
    Tail,
    adapter_state,
    add_lora,
    base_front,
    cut,
    export_adapter,
    load_adapted,
    load_adapter_state,
    load_body,
    load_front,
    load_model,
    load_tail,
    renew_head,
)

from .tiny_models import (
    CASES,
    CLASSIFIERS,
    OTHER_CASES,
    RECENT,
    REFUSED,
    loss_of,
    right_padded_batch,
    tiny_classifier,
    tiny_model,
)

# peft reads a property of transformers' models by its deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

RANK, ALPHA = 4, 16
LABELS = ["bad", "good", "neither"]


def boundaries(num_blocks: int) -> list[tuple[int, int]]:
    return [(k, j) for k in range(1, num_blocks) for j in range(num_blocks - k)]


def split_with_lora(model: PreTrainedModel, at: int, tail_blocks: int) -> SplitModel:
    """Cut, add LoRA and move B away from zero, so that every LoRA gradient counts."""
    split = cut(model, at, tail_blocks)
    for part in split.parts:
        add_lora(part, RANK, ALPHA)
        renew_head(part)
        load_adapter_state(part, {name: away_from_zero(name, t) for name, t in adapter_state(part).items()})
    return split


def away_from_zero(name: str, tensor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return tensor + 0.1 * torch.randn(tensor.shape, generator=generator)


def states(split: SplitModel) -> dict[str, Tensor]:
    return {name: tensor for part in split.parts for name, tensor in adapter_state(part).items()}


def uncut_with_lora(model: PreTrainedModel, state: dict[str, Tensor]) -> PeftModel:
    """The reference: peft alone, on the whole model, with the same LoRA weights and the same head."""
    targets = sorted({name.rsplit(".lora_", 1)[0] for name in state if ".lora_" in name})
    heads = sorted({name.split(".")[0] for name in state if ".lora_" not in name})
    conv1d = "Conv1D" in type(model.get_submodule(targets[0])).__name__
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=targets, modules_to_save=heads, fan_in_fan_out=conv1d
    )
    whole = get_peft_model(copy.deepcopy(model), config).train(model.training)
    own = lora_parameters(whole)
    assert own.keys() == state.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
    return whole


def lora_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {
        name.removeprefix("base_model.model.")
        .replace(".modules_to_save", "")
        .replace(".default.", "."): parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def gradients(module: torch.nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in lora_parameters(module).items()}


def assert_exact(model: PreTrainedModel, at: int, tail_blocks: int) -> None:
    """Compare logits and gradients, each part's backward pass run on its own as a party would."""
    ids, mask = right_padded_batch()
    split = split_with_lora(model, at, tail_blocks)
    whole = uncut_with_lora(model, states(split))

    torch.manual_seed(2)  # dropout
    logits = whole(input_ids=ids, attention_mask=mask, use_cache=False).logits
    loss_of(logits, ids, mask).backward()

    torch.manual_seed(2)
    sent = [split.front(ids, mask)]
    received = []
    for part in split.parts[1:]:
        received.append(sent[-1].detach().requires_grad_())
        sent.append(part(received[-1], mask))
    loss_of(sent[-1], ids, mask).backward()
    for output, copied in zip(reversed(sent[:-1]), reversed(received), strict=True):
        output.backward(copied.grad)

    assert torch.equal(sent[-1], logits)
    if logits.dim() == 3:
        assert_alike_at_some_positions(split.parts[-1], received[-1].detach(), mask)
    expected = gradients(whole)
    found = {name: gradient for part in split.parts for name, gradient in gradients(part.model).items()}
    assert found.keys() == expected.keys()
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        same = found[name] is None if gradient is None else torch.equal(found[name], gradient)
        assert same, f"{name}: the gradient differs"


def assert_alike_at_some_positions(part: Body | Tail, hidden: Tensor, mask: Tensor) -> None:
    """Compare logits and gradient; few rows may be summed up in another order than many."""
    rows, columns = torch.nonzero(mask[:, 1:], as_tuple=True)
    mode = part.training
    part.eval()  # no dropout: it would be drawn twice
    hidden.requires_grad_()
    expected, found = part(hidden, mask)[rows, columns], part(hidden, mask, at=(rows, columns))
    part.train(mode)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(logits.logsumexp(-1).sum(), hidden) for logits in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0])


EVERY_BOUNDARY = [(1, 1), (2, 0)]  # of four blocks; a boundary is the same whatever lies on its other sides
ALL_CASES = OTHER_CASES | CASES


@pytest.mark.parametrize("case", sorted(ALL_CASES))
def test_every_boundary_is_exact(case: str) -> None:
    model = tiny_model(case, ALL_CASES[case])
    for at, tail_blocks in EVERY_BOUNDARY:
        assert_exact(model, at, tail_blocks)


@pytest.mark.parametrize(
    "case",
    [
        case if case in ("gpt2", "llama") else pytest.param(case, marks=pytest.mark.slow)
        for case in sorted(RECENT | CASES)
    ],
)
def test_every_front_body_and_tail_are_exact(case: str) -> None:
    model = tiny_model(case, ALL_CASES[case])
    for at, tail_blocks in boundaries(model.config.num_hidden_layers):
        assert_exact(model, at, tail_blocks)


@pytest.mark.parametrize("case", RECENT)
def test_recent_families_are_exact_in_16_bits_with_sdpa(case: str) -> None:
    has_sdpa = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[case]]._supports_sdpa
    model = tiny_model(case, RECENT[case], "sdpa" if has_sdpa else "eager").to(torch.bfloat16)
    assert_exact(model, 2, 1)
    assert_exact(model, 1, 0)


@pytest.mark.parametrize("case", sorted(ALL_CASES))
def test_the_base_front_of_16_bits_computes_in_fp32(case: str) -> None:
    front = cut(tiny_model(case, ALL_CASES[case]), 2).front.to(torch.bfloat16)
    wide, narrow = copy.deepcopy(front).float(), copy.deepcopy(front)
    add_lora(front, RANK, ALPHA)
    for parameter in front.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    ids, mask = right_padded_batch()
    with torch.no_grad():
        found, exact, in_16_bits = (
            part(ids, mask)[mask.bool()] for part in (base_front(front), wide, narrow)
        )
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 0.5 * (in_16_bits - exact).norm()


@pytest.mark.parametrize("case", REFUSED)
def test_a_family_that_cannot_be_cut_is_refused(case: str) -> None:
    options, reason = REFUSED[case]
    with pytest.raises(CutError, match=reason):
        cut(tiny_model(case, options), 2)


@pytest.mark.parametrize("case", ["gpt2", "llama", "gemma3_text", "qwen2", "smollm3"])
def test_sdpa_is_exact(case: str) -> None:
    model = tiny_model(case, CASES[case], attention="sdpa")
    for at, tail_blocks in [(1, 0), (2, 1), (3, 0)]:
        assert_exact(model, at, tail_blocks)


@settings(deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), at=st.integers(1, 3), seed=st.integers(0, 9)
)
def test_any_lengths_give_the_same_logits(lengths: list[int], at: int, seed: int) -> None:
    model = windowed_model()
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(3, 60, mask.shape, generator=torch.Generator().manual_seed(seed)) * mask
    with torch.no_grad():
        assert torch.equal(cut(model, at)(ids, mask), model(input_ids=ids, attention_mask=mask).logits)


@functools.cache
def windowed_model() -> PreTrainedModel:
    return tiny_model("gemma3_text", CASES["gemma3_text"]).requires_grad_(False)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("gpt2", {"embd_pdrop": 0.5, "attn_pdrop": 0.2, "resid_pdrop": 0.2}),
        ("bloom", {"hidden_dropout": 0.3, "attention_dropout": 0.3}),
    ],
)
def test_dropout_is_drawn_once_and_in_the_same_order(case: str, options: dict[str, object]) -> None:
    assert_exact(tiny_model(case, options).train(), 2, 1)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if ":" in case else []) for case in CASES]
)
def test_parts_loaded_alone_make_the_model_and_the_adapter(case: str, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_model(case, CASES[case]).save_pretrained(base, max_shard_size="20KB")
    whole = load_model(base, attn_implementation="eager")
    # a cache lays keys out anew, and on some CPUs the last bits depend on that
    whole.config.use_cache = False
    eager = {"attn_implementation": "eager"}
    split = SplitModel(
        load_front(base, 1, **eager), load_body(base, 1, 1, **eager), load_tail(base, 1, **eager)
    )
    ids, mask = right_padded_batch()
    assert torch.equal(split(ids, mask), whole(input_ids=ids, attention_mask=mask).logits)

    num_parameters = sum(p.numel() for part in split.parts for p in part.parameters())
    tied = whole.get_input_embeddings().weight.numel() if whole.config.tie_word_embeddings else 0
    assert num_parameters == sum(p.numel() for p in whole.parameters()) + tied

    for part in split.parts[1:]:  # the front stays frozen
        add_lora(part, RANK, ALPHA)
        load_adapter_state(part, {name: away_from_zero(name, t) for name, t in adapter_state(part).items()})
    front, body, tail = map(adapter_state, split.parts)
    export_adapter(adapter, base, front, body, tail, cut=1, rank=RANK, alpha=ALPHA)
    tuned = PeftModel.from_pretrained(whole, adapter)
    assert torch.equal(split(ids, mask), tuned(input_ids=ids, attention_mask=mask).logits)


@pytest.mark.parametrize(
    "case",
    [  # of decoders the head alone is another, and `test_every_boundary_is_exact` has them all
        pytest.param(
            case, marks=[pytest.mark.slow] if OTHER_CASES.get(case) == options or ":" in case else []
        )
        for case, options in CLASSIFIERS.items()
    ],
)
def test_classifiers_are_exact(case: str) -> None:
    assert_exact(tiny_classifier(case, CLASSIFIERS[case], len(LABELS)), 2, 1)


@pytest.mark.parametrize("case", ["gpt2", "bert", "roberta", "distilbert"])
def test_a_classifier_with_dropout_is_exact_at_every_boundary(case: str) -> None:
    model = tiny_classifier(case, CLASSIFIERS[case], len(LABELS)).train()
    for at, tail_blocks in boundaries(model.config.num_hidden_layers):
        assert_exact(model, at, tail_blocks)


@pytest.mark.parametrize("case", ["gpt2", "llama", "opt", "bert", "roberta", "distilbert"])
def test_a_classifier_begins_with_a_new_head_and_ends_as_a_standard_adapter(
    case: str, tmp_path: Path
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_classifier(case, CLASSIFIERS[case], 2).save_pretrained(base)  # of another number of classes
    eager = {"attn_implementation": "eager", "labels": LABELS}
    split = SplitModel(load_front(base, 1, **eager), load_body(base, 1, **eager))
    for part in split.parts:
        add_lora(part, RANK, ALPHA)
        renew_head(part, seed=3)
    other = load_body(base, 2, **eager)
    renew_head(other, seed=3)
    assert all(torch.equal(adapter_state(split.body)[name], t) for name, t in adapter_state(other).items())

    front, body = map(adapter_state, split.parts)
    export_adapter(adapter, base, front, body, cut=1, rank=RANK, alpha=ALPHA, labels=LABELS)
    torch.manual_seed(9)  # of the head that from_pretrained makes and the adapter replaces
    whole = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, attn_implementation="eager", ignore_mismatched_sizes=True
    )
    whole.config.use_cache = False
    tuned = PeftModel.from_pretrained(whole, adapter).eval()
    ids, mask = right_padded_batch()
    logits = split(ids, mask)
    assert torch.equal(logits, tuned(input_ids=ids, attention_mask=mask).logits)
    assert logits.std() > 0

    again = load_adapted(base, adapter, LABELS).eval()  # in transformers' own choice of attention
    torch.testing.assert_close(again(input_ids=ids, attention_mask=mask).logits, logits)
