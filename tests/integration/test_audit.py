"""The attacks of an audit, where it is known how they must end."""

import json

import pytest
import torch

import splitcom
from splitcom.audit import Inverter, recovered, score
from splitcom.errors import ConfigError
from splitcom.methods.audit import AUDIT, AuditOptions, audit
from splitcom.models import cut, load_model, load_tokenizer
from splitcom.models.generate import Continuation


@pytest.fixture(scope="module")
def front():
    return cut(load_model("bundled"), cut=2).front.eval()


@pytest.fixture(scope="module")
def sample():
    """Tokens of a text, and all that they could be."""
    tokens = load_tokenizer("bundled")("The river Draim is 12 miles long.", return_tensors="pt")["input_ids"][
        0
    ]
    return tokens, torch.arange(load_tokenizer("bundled").vocab_size).expand(len(tokens), -1)


@torch.no_grad()
def hidden_of(front, tokens):
    return front(tokens[None], torch.ones_like(tokens)[None])[0]


def test_a_text_comes_back_whole_from_exact_hidden_states(front, sample):
    tokens, candidates = sample

    assert torch.equal(recovered(front, hidden_of(front, tokens), candidates), tokens)


def test_noise_gives_nothing_back(front, sample):
    tokens, candidates = sample
    hidden = hidden_of(front, tokens)
    noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)) * hidden.std() * 100

    assert (recovered(front, noise, candidates) == tokens).float().mean() < 0.2


def test_what_a_token_would_give_next_is_what_the_whole_text_gives(front, sample):
    tokens, _ = sample
    text = Continuation(front)
    for token in tokens[:4].tolist():
        text.append(token)

    tried = text.hidden_after(tokens[4:6])

    for token, found in zip(tokens[4:6], tried, strict=True):
        whole = hidden_of(front, torch.cat([tokens[:4], token[None]]))[-1]
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)


def test_an_inverter_ranks_the_tokens_it_has_learnt_first():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(50, 16, generator=generator)
    hidden = embeddings @ torch.randn(16, 32, generator=generator)  # a front without blocks

    ranked = Inverter(embeddings).fit(hidden.repeat(8, 1), torch.arange(50).repeat(8)).rank(hidden, 5)

    assert ranked.shape == (50, 5) and (ranked[:, 0] == torch.arange(50)).all()


def test_a_score_counts_tokens_kinds_and_order():
    texts = {1: "Ada", 2: "is", 3: "36", 4: "old"}

    found = score([torch.tensor([1, 3, 2, 4])], [torch.tensor([1, 2, 3, 4])], texts.__getitem__)

    assert (found.tokens, found.names, found.numbers, found.whole, found.rouge_l) == (
        0.5,
        1.0,
        0.0,
        0.0,
        0.75,
    )


def test_a_run_is_audited_with_its_own_codec_beside_fp16(tiny_config, tmp_path):
    run = splitcom.train(tiny_config, tmp_path / "run")

    found = audit(run.folder, AuditOptions(samples=2, tokens=8, candidates=16))

    codec = tiny_config.flows.codec("activation_up")
    assert [(finding.codec, finding.attack) for finding in found] == [
        ("", "the commonest token"),
        *((text, attack) for text in ("fp16", codec) for attack in ("inverter", "dictionary")),
    ]
    assert found[1].error < 0.001 < found[3].error
    assert len(json.loads((run.folder / AUDIT).read_text())) == 5


def test_a_run_whose_text_crosses_no_cut_is_refused(tiny_config, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(tiny_config.override({"method": "fedlora"}).to_toml())

    with pytest.raises(ConfigError, match="crosses a cut"):
        audit(path, AuditOptions())
