"""The bundled base model: it loads, it is small, it has learnt its domains and not the held-out one."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import splitcom
from splitcom.data import HELD_OUT_DOMAIN, batches, domains, encode, encode_prompt, read_rows
from splitcom.data.samples import IGNORED

FOLDER = Path(splitcom.__file__).parent / "models/bundled"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    model, info = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@torch.no_grad()
def loss(model, tokenizer, domain: str) -> float:
    samples = encode(list(read_rows("generated", domain=domain, count=24, seed=1)), tokenizer).samples
    (batch,) = batches(samples, len(samples))
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED
    ).item()


def test_it_is_at_most_6_mb():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6e6


def test_no_text_is_out_of_vocabulary(tokenizer):
    text = "Überall 漢字, 1987 & the rest\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_it_knows_its_domains_and_not_the_held_out_one(model, tokenizer):
    losses = {domain: loss(model, tokenizer, domain) for domain in domains()}
    held_out = losses.pop(HELD_OUT_DOMAIN)
    assert max(losses.values()) < math.log(tokenizer.vocab_size) / 4
    assert held_out > 1.5 * max(losses.values())


@torch.no_grad()
def test_it_writes_a_sentence_about_what_it_reads(model, tokenizer):
    prompt = encode_prompt("name: Rowan House | kind: hotel | rooms: 42 =>", tokenizer)
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False
    )
    assert output[0, -1] == tokenizer.eos_token_id
    text = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    assert all(value in text for value in ("Rowan House", "hotel", "42"))
