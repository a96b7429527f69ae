"""The attacks of an audit, where it is known how they must end."""

import json

import pytest
import torch

import splitcom
from splitcom.audit import Inverter, occurring, recovered, recovered_labels, score, share_named
from splitcom.data import IGNORED
from splitcom.errors import ConfigError
from splitcom.methods.audit import AUDIT, audit
from splitcom.methods.beside import side_channels, updates_told
from splitcom.methods.crossing import AuditOptions, Way
from splitcom.methods.presence import read_of_tokens
from splitcom.models import adapter_state, add_lora, cut, load_adapter_state, load_model, load_tokenizer
from splitcom.models.generate import Continuation
from splitcom.parties.texts import load_texts
from splitcom.training.loss import losses_through


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

    assert torch.equal(recovered(front, hidden_of(front, tokens), candidates)[:, 0], tokens)


@pytest.mark.parametrize("blocks", [1, 2])
def test_labels_come_back_whole_from_exact_gradients_and_not_at_all_from_noise(sample, blocks):
    tokens, _ = sample
    whole = cut(load_model("bundled"), cut=2, tail_blocks=blocks)
    mask, labels = torch.ones_like(tokens)[None], tokens[None].clone()
    labels[0, :4] = IGNORED  # a prompt
    with torch.no_grad():
        hidden = whole.body.eval()(hidden_of(whole.front.eval(), tokens)[None], mask)
    hidden.requires_grad_()
    losses = losses_through(whole.tail.eval(), hidden, mask, labels).losses
    torch.autograd.backward(losses.sum())

    found = recovered_labels(whole.tail, hidden[0], hidden.grad[0])

    assert torch.equal(found[3:-1], tokens[4:]) and (found[:3] == -1).sum() >= 3 and found[-1] == -1
    noise = torch.randn(hidden[0].shape, generator=torch.Generator().manual_seed(0)) * hidden.grad.std() * 100
    assert (recovered_labels(whole.tail, hidden[0], noise)[3:-1] == tokens[4:]).float().mean() < 0.2


@pytest.mark.slow
def test_a_beam_finds_what_the_nearest_next_token_leads_away_from(front, sample):
    tokens, candidates = sample
    hidden = hidden_of(front, tokens)
    generator = torch.Generator().manual_seed(1)
    blurred = hidden + torch.randn(hidden.shape, generator=generator) * hidden.std() * 1.5

    nearest, followed = (recovered(front, blurred, candidates, beam)[:, 0] for beam in (1, 4))

    def distance(text):
        return float((hidden_of(front, text) - blurred).square().sum())

    assert not torch.equal(nearest, tokens)
    assert distance(followed) < distance(nearest) and (followed == tokens).sum() > (nearest == tokens).sum()


def test_more_candidates_are_tried_where_none_of_the_first_fits(front, sample):
    tokens, candidates = sample
    hidden = hidden_of(front, tokens)
    late = torch.stack([row.roll(-1 - int(token)) for row, token in zip(candidates, tokens, strict=True)])

    def found(enough):  # each token is the last of its candidates
        return recovered(front, hidden, late, first=8, enough=enough)[:, 0]

    assert torch.equal(found(1e-6), tokens) and not (found(1e9) == tokens).any()


def test_noise_gives_nothing_back(front, sample):
    tokens, candidates = sample
    hidden = hidden_of(front, tokens)
    noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)) * hidden.std() * 100

    assert (recovered(front, noise, candidates)[:, 0] == tokens).float().mean() < 0.2


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


def test_an_inverter_that_is_told_nothing_says_what_is_commonest_and_else_weighs_both():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.tensor([3] * 600 + [7] * 300 + [1] * 100)
    hidden, embeddings = (torch.randn(rows, 16, generator=generator) for rows in (2000, 50))

    nothing = Inverter(embeddings).fit(hidden[:1000], tokens).rank(hidden[1000:], 3)
    blurred = embeddings[tokens] + 2 * hidden[:1000]
    something = Inverter(embeddings).fit(blurred, tokens).rank(blurred, 3)

    assert (nothing[:, 0] == 3).float().mean() > 0.95 and (
        nothing[:, :2] == torch.tensor([3, 7])
    ).float().mean() > 0.9
    assert 0.8 < (something[:, 0] == tokens).float().mean() < 1


def test_a_penalty_lets_another_than_the_nearest_token_win(front, sample):
    tokens, candidates = sample
    penalties = torch.zeros(candidates.shape)
    penalties[2, tokens[2]] = 1e6

    found = recovered(front, hidden_of(front, tokens), candidates, penalties=penalties)[:, 0]

    assert torch.equal(found[:2], tokens[:2]) and found[2] != tokens[2]


def test_a_codec_that_is_noise_is_attacked_by_one_visit_and_by_all(tiny_config, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(tiny_config.override({"flows.activation_up.codec": "delta > dither(3)"}).to_toml())

    found = audit(path, AuditOptions(samples=2, tokens=8, candidates=16))

    text = [finding for finding in found if finding.score is not None]
    one, *_, all_visits = (finding for finding in text if "dither" in finding.codec)
    assert all_visits.codec.endswith("mean of 2 visits")
    assert all_visits.error == pytest.approx(one.error / 2**0.5, rel=0.1)


def test_a_score_counts_tokens_kinds_and_order():
    texts = {1: "Ada", 2: "is", 3: "36", 4: "old"}

    found = score(
        [torch.tensor([[1, 1], [3, 2], [2, 4], [4, 1]])], [torch.tensor([1, 2, 3, 4])], texts.__getitem__
    )

    assert (found.tokens, found.top5, found.names, found.numbers, found.whole, found.rouge_l) == (
        0.5,
        0.75,
        1.0,
        0.0,
        0.0,
        0.75,
    )


def test_a_run_is_audited_with_its_own_codec_beside_fp16(tiny_config, tmp_path):
    run = splitcom.train(tiny_config, tmp_path / "run")

    found = audit(run.folder, AuditOptions(samples=2, tokens=8, candidates=16))

    codec = tiny_config.flows.codec("activation_up")
    text = [finding for finding in found if finding.score is not None]
    assert [(finding.codec, finding.attack) for finding in text] == [
        ("", "the commonest token"),
        ("", "the commonest token at each place"),
        *((way, attack) for way in ("fp16", codec) for attack in ("inverter", "dictionary")),
    ]
    assert text[2].error < 0.001 < text[4].error and text[4].bits < 16 < text[2].bits
    beside = {finding.attack.split(",")[0]: finding for finding in found if finding.score is None}
    assert all(0 <= finding.share <= 1 for finding in beside.values())
    assert beside["member or not"].codec == "the run's adapter"
    assert beside["length within a twentieth"].share > beside["length within a twentieth"].chance
    assert len(json.loads((run.folder / AUDIT).read_text())) == len(found)


RESTS = {
    "training.rounds": 3,
    "flows.activation_up.codec": "temporal(0.98) > fp16",
    "flows.activation_up.controller": "freeze(0.98, 0.99, rest=1)",
}


@pytest.mark.parametrize(
    ("is_masked", "more"), [(False, {}), (False, RESTS), pytest.param(True, {}, marks=pytest.mark.slow)]
)
def test_single_adapters_are_attacked_as_far_as_the_server_sees_them(tiny_config, is_masked, more):
    masked = {
        "federation.secure_aggregation": 0.6,
        "federation.max_update_ratio": None,
        "flows.adapter_up.codec": "none",
    }

    found = list(updates_told(tiny_config.override(more | (masked if is_masked else {})), 2))

    of = dict.fromkeys(finding.codec for finding in found)
    assert [*of] == ["one client's adapter"] * (not is_masked) + ["the mean of 3 clients' adapters"]
    assert all(0 <= one.share <= 1 for one in found)
    attacks = [one.attack.split(",")[0] for one in found if one.codec == "one client's adapter"]
    single = ["member or not", "whose sample", "tokens of its text", "whose token"]
    assert attacks == ([] if is_masked else single)


def test_an_adapters_first_step_tells_each_of_a_few_tokens_and_noise_tells_none(sample):
    tokens, _ = sample
    part = cut(load_model("bundled"), cut=1).front.eval()
    add_lora(part, rank=8, targets=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"])
    generator = torch.Generator().manual_seed(0)
    after_a_round = {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in adapter_state(part).items()
    }
    load_adapter_state(part, after_a_round)
    part(tokens[None]).square().sum().backward()
    gradients = {name.replace(".default", ""): p.grad for name, p in part.model.named_parameters()}

    inputs = read_of_tokens(part)

    attention = ("q_proj", "k_proj", "v_proj")
    assert {name.split(".")[-1] for name in inputs} == {*attention} and len(tokens.unique()) < 24
    read = next(iter(inputs.values()))
    change = torch.cat([gradients[f"{name}.lora_A.weight"] for name in inputs])
    occurs = torch.bincount(tokens, minlength=len(read)) > 0
    assert share_named(occurring(change, read), occurs) == 1
    noise = torch.randn(change.shape, generator=generator)
    assert share_named(occurring(noise, read), occurs) < 0.2
    assert share_named(occurring(torch.zeros_like(change), read), occurs) == pytest.approx(
        occurs.double().mean()
    )


def test_flags_of_prompts_tell_where_responses_begin_and_sizes_of_fp16_no_more_than_lengths(
    tiny_config, front
):
    samples = load_texts(tiny_config).train.samples[:12]
    flagged = {
        one.attack.split(",")[0]: one
        for one in side_channels(front, samples, Way("predict > klt > uniform(0.5, prompt=2) > range"))
    }
    plain = {one.attack.split(",")[0]: one for one in side_channels(front, samples, Way("fp16"))}

    assert flagged["where a response begins"].share == 1
    assert flagged["a copy of a text sent before or not"].share > 0.9
    assert plain["length within a twentieth"].share == 1 and "where a response begins" not in plain
    assert plain["a later visit or not"].share == plain["a copy of a text sent before or not"].share == 0.5


def test_a_run_whose_text_crosses_no_cut_is_refused(tiny_config, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(tiny_config.override({"method": "fedlora"}).to_toml())

    with pytest.raises(ConfigError, match="from what crosses the cut"):
        audit(path, AuditOptions())


def test_an_audit_of_a_run_with_noise_attacks_what_has_left_under_it(tiny_config, tmp_path):
    path = tmp_path / "run.toml"
    text = "gaussian(3.0, clip=5, gradients=0.1, seed=0)"
    path.write_text(tiny_config.override({"client.privacy": text, "model.tail_blocks": 1}).to_toml())
    pytest.importorskip("dp_accounting")

    found = audit(path, AuditOptions(samples=2, tokens=8, candidates=16))

    by_way = {(finding.codec.split(", ")[-1], finding.attack): finding for finding in found}
    assert by_way["mean of 2 visits", "dictionary"].error > 1
    exact, noised = (
        [
            one.score.tokens
            for one in found
            if one.attack.startswith("labels") and ("gaussian" in one.codec) == noisy
        ]
        for noisy in (False, True)
    )
    assert exact == [1.0] and max(noised) < 0.5
