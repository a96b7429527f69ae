"""Runs of a model and of rows that are objects, as a program or a notebook has them."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import splitcom
from splitcom.data import encode, read_rows
from splitcom.errors import ConfigError, DataError, RunError
from splitcom.methods.settings import settings_of
from splitcom.metrics.record import RunFolder
from splitcom.models import check_adapter, read_adapter

ROWS = [{"asked": f"what is {i}?", "said": f"{i} is {i}."} for i in range(20)]
COLUMNS = {"data.prompt": "{asked}", "data.response": "said"}


@pytest.fixture
def objects(tiny_config):
    source = tiny_config.model.source
    return {
        "model": AutoModelForCausalLM.from_pretrained(source),
        "tokenizer": AutoTokenizer.from_pretrained(source),
        "data": ROWS,
        "held_out": ({"asked": f"and {i}?", "said": "no."} for i in range(5)),
    }


def test_a_run_of_objects_is_that_of_files_and_needs_them_no_more(tiny_config, objects, tmp_path):
    config = tiny_config.override({**COLUMNS, "data.samples": None, "model.source": "not/there"})

    run = splitcom.train(config, tmp_path / "run", **objects)

    settings = settings_of(RunFolder(run.folder))
    assert settings.data.source == str(run.folder / "given" / "rows.jsonl")
    again = splitcom.train(settings.override({"seed": config.seed}), tmp_path / "again")
    assert again.result["eval"]["loss"] == run.result["eval"]["loss"]
    assert run.metrics[-1]["bytes.total"] > 0 and run.metrics[-1]["round"] == 2


def test_token_ids_of_a_program_train_as_the_text_that_they_are_of(tiny_config, objects, tmp_path):
    config = tiny_config.override({**COLUMNS, "data.samples": None, "data.held_out_samples": 4})
    config = config.override({"training.rounds": 1, "federation.clients": 2, "evaluation.generate": 1})
    run = splitcom.train(config, tmp_path / "text", data=ROWS)
    kept = list(read_rows(run.folder / "given" / "rows.jsonl", template="{asked}", response_column="said"))
    samples = encode(kept, objects["tokenizer"]).samples
    rows = [{"input_ids": one.input_ids.tolist(), "labels": one.labels.tolist()} for one in samples]

    again = splitcom.train(config, tmp_path / "tokens", data=rows)

    assert again.result["eval"]["loss"] == run.result["eval"]["loss"]
    assert again.result["samples"][0]["reference"].strip().endswith("</s>")


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_tokens_that_were_added_are_learnt(tiny_config, objects, tmp_path, tail_blocks):
    model, tokenizer = objects["model"], objects["tokenizer"]
    marks = ["<|ask|>", "<|say|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|ask|>' if m.role == 'user' else '<|say|>' }}{{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}<|say|>{% endif %}"
    )
    model.resize_token_embeddings(len(tokenizer))
    before = model.get_input_embeddings().weight.detach().clone()
    rows = [
        {
            "messages": [
                {"role": "user", "content": row["asked"]},
                {"role": "assistant", "content": row["said"]},
            ]
        }
        for row in ROWS
    ]
    changes = {
        "data.samples": None,
        "data.held_out_samples": 4,
        "training.rounds": 1,
        "lora.modules_to_save": ["embed_tokens", "lm_head"],
        "model.tail_blocks": tail_blocks,
        "federation.clients": 2,
    }

    run = splitcom.train(tiny_config.override(changes), tmp_path, model=model, tokenizer=tokenizer, data=rows)

    learnt = read_adapter(run.adapter)["model.embed_tokens.weight"]
    ids = tokenizer.convert_tokens_to_ids(marks)
    moved = (learnt - before).abs().amax(dim=1) > 1e-4
    assert moved[ids].all() and learnt.shape == before.shape
    assert moved.sum() < len(before) / 2  # no other tokens than those in the rows
    check_adapter(run.folder / "given" / "model", run.adapter)


def test_a_run_goes_on_with_its_rows_and_no_others(tiny_config, tmp_path):
    config = tiny_config.override({**COLUMNS, "data.samples": None, "training.rounds": 1})
    splitcom.train(config, tmp_path, data=ROWS)
    longer = config.override({"training.rounds": 2})

    with pytest.raises(RunError, match="began with other rows"):
        splitcom.train(longer, tmp_path, resume=True, data=ROWS[1:])
    assert splitcom.train(longer, tmp_path, resume=True, data=ROWS).result["rounds"] == 2


def test_rows_that_cannot_be_kept_are_refused_and_leave_nothing(tiny_config, tmp_path):
    with pytest.raises(DataError, match="data, row 1"):
        splitcom.train(tiny_config, tmp_path / "run", data=[ROWS[0], {"asked": object()}])
    assert not (tmp_path / "run").exists()


def test_a_model_without_its_tokenizer_is_refused(tiny_config, objects, tmp_path):
    with pytest.raises(ConfigError, match="its tokenizer"):
        splitcom.train(tiny_config, tmp_path / "run", model=objects["model"])


def test_a_wrong_setting_in_python_is_an_error_of_ours():
    with pytest.raises(ConfigError, match=r"Config: training\.lr = -1.*must be above 0"):
        splitcom.Config(training={"lr": -1.0})
