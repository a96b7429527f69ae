"""A cut model writes what the uncut one writes; each new token sends one position; runs are scored."""

import json

import pytest
import torch

from splitcom.data import Row
from splitcom.errors import ConfigError, RunError
from splitcom.methods.evaluate import evaluate_run, writer_of
from splitcom.methods.run import train
from splitcom.methods.text import references_by_prompt
from splitcom.models import cut
from splitcom.models.generate import generator

from .tiny_models import CASES, OTHER_CASES, tiny_model

STATEFUL = ("mamba", "jamba", "lfm2", "qwen3_next")  # mixers whose states are no keys and values


@pytest.mark.parametrize(("beams", "padding"), [(1, 2), (3, 2), pytest.param(1, 0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", [*CASES, *STATEFUL])
def test_a_cut_model_writes_the_same_text(case, beams, padding):
    model = tiny_model(case, {**CASES, **OTHER_CASES}[case])
    torch.manual_seed(0)
    ids = torch.randint(3, 60, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :padding] = ids[0, :padding] = 0
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    expected = model.generate(input_ids=ids, attention_mask=mask, use_cache=case not in STATEFUL, **options)
    split = cut(model, 1, 1)
    sent = [[], []]

    def wire(index):
        return lambda hidden, _: sent[index].append(hidden.shape[1]) or hidden

    written = generator(split, (wire(0), wire(1))).generate(input_ids=ids, attention_mask=mask, **options)
    assert torch.equal(written, expected)
    assert sent[0] == sent[1]
    if case not in STATEFUL:
        assert sent[0] == [6] + [1] * (len(sent[0]) - 1)


def test_a_run_is_scored_and_writes_again_what_it_wrote(tiny_config, tmp_path):
    settings = {"evaluation.generate": 1, "evaluation.text_samples": 5, "evaluation.max_new_tokens": 8}
    run = train(tiny_config.override(settings), tmp_path / "run")
    text = run.result["text"]
    assert text["prompts"] == 5 and {"bleu", "nist", "rouge_l", "chrf"} <= text.keys()
    hidden = 32
    (bytes_per_position,) = text["bytes_per_position"]
    assert 4 * hidden < bytes_per_position < 6 * hidden  # fp32 and a packet's header

    found = evaluate_run(run.folder, {"evaluation.codec": "int8"})
    assert found["loss"] == pytest.approx(run.result["eval"]["loss"], rel=1e-2)
    assert found["text"]["bytes_per_position"][0] < bytes_per_position / 2
    assert json.loads((run.folder / "evaluation.json").read_text()) == found
    assert evaluate_run(run.folder)["text"] == text

    sample = run.result["samples"][0]
    assert writer_of(run.folder).write([sample["prompt"]]) == [sample["after"]]


def test_in_the_u_shape_each_token_crosses_two_cuts(tiny_config, tmp_path):
    settings = {"model.tail_blocks": 1, "evaluation.text_samples": 2, "evaluation.max_new_tokens": 4}
    run = train(tiny_config.override(settings), tmp_path / "run")
    up, down = run.result["text"]["bytes_per_position"]
    assert up == down > 0


def test_a_method_that_splits_nothing_writes_too(tiny_config, tmp_path):
    settings = {"method": "centralised", "evaluation.text_samples": 2, "evaluation.max_new_tokens": 4}
    run = train(tiny_config.override(settings), tmp_path / "run")
    assert run.result["text"]["bytes_per_position"] == []


def test_what_cannot_be_evaluated_is_said(tiny_config, trained, tmp_path):
    with pytest.raises(RunError, match="no run to be found"):
        evaluate_run(tmp_path)
    run = trained(tiny_config, tmp_path / "run")
    with pytest.raises(ConfigError, match="no held-out row has a prompt"):
        evaluate_run(run.folder, {"evaluation.text_samples": 3, "data.prompt": ""})
    (run.folder / "result.json").unlink()
    with pytest.raises(RunError, match="has not ended"):
        evaluate_run(run.folder)


def test_references_are_all_responses_to_a_prompt():
    rows = [Row(i, prompt, response, {}) for i, (prompt, response) in enumerate(["ax", "by", "az", "_q"])]
    rows[3] = Row(3, "", "q", {})
    assert references_by_prompt(rows, 2, lambda prompt: True) == {"a": ["x", "z"], "b": ["y"]}
    assert references_by_prompt(rows, 1, lambda prompt: True) == {"a": ["x", "z"]}
    assert references_by_prompt(rows, 1, lambda prompt: prompt != "a") == {"b": ["y"]}
