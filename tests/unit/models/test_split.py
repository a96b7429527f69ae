"""What parts share, what they train, and which models are refused."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from splitcom.errors import CutError
from splitcom.models import adapter_state, add_lora, cut, load_adapter_state, load_model, replicate
from splitcom.models.split import spans

IDS = torch.tensor([[5, 6, 7, 8], [9, 5, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def llama(**options: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(small_llama(**options)).eval()


def small_llama(**options: object) -> LlamaConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    return LlamaConfig(**{"vocab_size": 32, "attn_implementation": "eager", **sizes, **options})


@settings(deadline=None, max_examples=50)
@given(num_blocks=st.integers(1, 12), at=st.integers(-2, 14), tail_blocks=st.integers(-2, 14))
def test_spans_hold_every_block_once_or_are_refused(num_blocks: int, at: int, tail_blocks: int) -> None:
    fits = at >= 1 and tail_blocks >= 0 and at + tail_blocks < num_blocks
    if not fits:
        with pytest.raises(
            CutError, match=f"model.tail_blocks = {tail_blocks} does not fit a model of {num_blocks} block"
        ):
            spans(num_blocks, at, tail_blocks)
        return
    found = list(spans(num_blocks, at, tail_blocks).values())
    assert [i for span in found for i in range(span.start, span.stop)] == list(range(num_blocks))
    assert all(span.stop > span.start for span in found)
    assert [span.first for span in found] == [True] + [False] * (len(found) - 1)
    assert [span.last for span in found] == [False] * (len(found) - 1) + [True]


def test_parts_share_the_storage_and_leave_the_model_as_it_was() -> None:
    model = llama()
    before = copy.deepcopy(model.state_dict())
    split = cut(model, 2, 1)
    for part in split.parts:
        add_lora(part, rank=2)
    storage = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    for part in split.parts:
        for name, parameter in part.model.named_parameters():
            if not parameter.requires_grad:
                assert parameter.data_ptr() == storage[name.replace("base_layer.", "")]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_part_holds_its_own_weights_only() -> None:
    split = cut(llama(), 1, 1)
    held = [{name.split(".weight")[0] for name, _ in part.model.named_parameters()} for part in split.parts]
    assert {name for name in held[0] if "layers" not in name} == {"model.embed_tokens"}
    assert {name for name in held[1] if "layers" not in name} == set()
    assert {name for name in held[2] if "layers" not in name} == {"model.norm", "lm_head"}
    blocks = [{name.split(".")[2] for name in names if "layers" in name} for names in held]
    assert blocks == [{"0"}, {"1", "2"}, {"3"}]


def test_a_tied_tail_holds_a_frozen_copy_of_the_embeddings() -> None:
    model = llama(tie_word_embeddings=True)
    split = cut(model, 1, 1)
    assert split.tail is not None
    head = split.tail.model.get_output_embeddings().weight
    assert head.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    add_lora(split.tail, rank=2)
    assert not head.requires_grad


def test_only_lora_is_trained_and_the_gradient_reaches_what_was_received() -> None:
    split = cut(llama(), 2)
    for part in split.parts:
        add_lora(part, rank=2)
        trained = {name for name, parameter in part.named_parameters() if parameter.requires_grad}
        assert trained
        assert all(".lora_" in name for name in trained)
    hidden = split.front(IDS, MASK)
    received = hidden.detach().requires_grad_()
    split.body(received, MASK).square().sum().backward()
    assert received.grad is not None
    assert received.grad.abs().sum() > 0
    hidden.backward(received.grad)
    grads = [p.grad for n, p in split.front.named_parameters() if "lora_B" in n]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_no_activation_outlives_the_call() -> None:
    split = cut(llama(), 2, 1)
    split(IDS, MASK)
    for part in split.parts:
        held = [vars(m).get(name) for m in part.modules() for name in ("given", "taken")]
        assert held == [None] * len(held)


def test_hidden_states_may_come_in_another_dtype() -> None:
    split = cut(llama().to(torch.bfloat16), 2)
    hidden = split.front(IDS, MASK)
    assert hidden.dtype == torch.bfloat16
    assert torch.equal(split.body(hidden.float(), MASK), split.body(hidden, MASK))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_changes_nothing() -> None:
    split = cut(llama(), 2)
    for part in split.parts:
        add_lora(part, rank=2)
        part.train()

    def gradients() -> list[torch.Tensor]:
        for part in split.parts:
            part.zero_grad()
        split(IDS, MASK).square().sum().backward()
        return [p.grad.clone() for part in split.parts for p in part.parameters() if p.grad is not None]

    plain = gradients()
    for part in split.parts:
        part.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = gradients()
    assert len(plain) == len(again) > 0
    assert all(map(torch.equal, plain, again))


def test_replicas_share_frozen_tensors_and_train_apart() -> None:
    front = cut(llama(), 2).front
    add_lora(front, rank=2)
    replica = replicate(front)
    for own, other in zip(front.parameters(), replica.parameters(), strict=True):
        assert (own is other) == (not own.requires_grad)
    start = adapter_state(front)
    load_adapter_state(replica, {name: tensor + 1 for name, tensor in start.items()})
    assert all(torch.equal(tensor, start[name]) for name, tensor in adapter_state(front).items())
    assert not torch.equal(replica(IDS, MASK), front(IDS, MASK))


def test_what_is_no_bare_causal_lm_is_refused() -> None:
    with pytest.raises(CutError, match="PreTrainedModel, found PeftModel"):
        cut(get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"])), 1)
    t5 = T5ForConditionalGeneration(
        T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2, vocab_size=16)
    )
    with pytest.raises(CutError, match="is_encoder_decoder = True"):
        cut(t5, 1)


class SkipModel(LlamaModel):
    """Adds the embeddings to what the last block gives."""

    def forward(self, *args: object, **kwargs: object) -> object:
        output = super().forward(*args, **kwargs)
        embedded = kwargs.get("inputs_embeds")
        output.last_hidden_state = output.last_hidden_state + (
            embedded if embedded is not None else self.embed_tokens(kwargs["input_ids"])
        )
        return output


class ScaledModel(LlamaModel):
    """Needs token ids to make the mask."""

    def forward(self, *args: object, **kwargs: object) -> object:
        if kwargs.get("input_ids") is not None:
            kwargs["attention_mask"] = kwargs["attention_mask"] * (kwargs["input_ids"] != 1)
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "reason"), [(SkipModel, "last block alone"), (ScaledModel, "same arguments")]
)
def test_a_decoder_that_does_more_is_refused(kind: type[LlamaModel], reason: str) -> None:
    model = llama()
    model.model = kind(model.config).eval()
    with pytest.raises(CutError, match=reason):
        cut(model, 2)


class Whispering(LlamaDecoderLayer):
    """Talks to the other blocks behind the model's back."""

    heard: dict[str, torch.Tensor]

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        out = super().forward(hidden_states, **kwargs) + self.heard.get("first", 0.0)
        self.heard.setdefault("first", out.detach())
        return out


def test_blocks_that_share_state_are_caught_by_comparing_logits() -> None:
    model = llama()
    heard: dict[str, torch.Tensor] = {}
    for block in model.model.layers:
        block.__class__ = Whispering
        block.heard = heard
    with pytest.raises(CutError, match="equal logits"):
        cut(model, 2)


def test_real_models_are_cut_exactly(assets: Path) -> None:
    for name in ("tiny1m", "d2t-gpt2-6m", "stories260K"):
        model = load_model(assets / "models" / name)
        ids = torch.arange(3, 35).reshape(2, 16)
        with torch.no_grad():
            expected = model(ids).logits
            assert torch.equal(cut(model, 2, 1)(ids, torch.ones_like(ids)), expected), name
