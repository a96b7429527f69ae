"""What comes after training cannot lose a run, and can be had again; a finished run can go on."""

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config

from splitcom.data import encode_prompt
from splitcom.errors import AdapterError, ConfigError, RunError
from splitcom.methods import ending
from splitcom.methods.evaluate import evaluate_run, writer_of
from splitcom.methods.export import export_run
from splitcom.methods.run import train
from splitcom.methods.text import Writer
from splitcom.metrics.record import RunFolder
from splitcom.models import add_lora, check_adapter, cut, load_model, without_adapters
from splitcom.models.load import stored_dtype
from splitcom.parties.parts import load_parts
from splitcom.server.observe import Observer

from .tiny_model import STILL

TEXTS = {"evaluation.generate": 2, "evaluation.text_samples": 2, "evaluation.max_new_tokens": 4}


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def rounds_of(run):
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["round"] for line in lines]


@pytest.mark.parametrize(
    ("step", "error", "missing"),
    [
        ("write_pairs", IndexError("index out of range in self"), "samples"),
        ("score_text", MemoryError(), "text"),
        ("export_adapter", OSError(28, "No space left on device"), "adapter"),
    ],
)
def test_what_fails_after_training_is_a_warning_and_is_done_by_resuming(
    tiny_config, trained, tmp_path, monkeypatch, caplog, step, error, missing
):
    config = tiny_config.override(TEXTS)
    whole = trained(config)

    def fail(*arguments, **options):
        assert RunFolder(tmp_path / "run").result() is not None  # has been written before
        raise error

    monkeypatch.setattr(ending, step, fail)
    run = train(config, tmp_path / "run")
    reason = "No space left" if missing == "adapter" else f"{type(error).__name__}: {error}"
    [warning] = run.result["warnings"]
    assert reason in warning and reason in caplog.text
    assert RunFolder(run.folder).result() == run.result
    assert missing not in run.result and run.adapter.exists() == (missing != "adapter")
    if missing == "adapter":
        with pytest.raises(RunError, match=r"its adapter could not be written; .* --resume"):
            export_run(run.folder, tmp_path / "out")
    else:
        export_run(run.folder, tmp_path / "out")
        evaluate_run(run.folder, {"evaluation.text_samples": 0})
    monkeypatch.undo()
    again = train(config, run.folder, resume=True)
    assert again.result["warnings"] == []
    assert {key: again.result[key] for key in ("eval", "bytes", "samples", "text")} == {
        key: whole.result[key] for key in ("eval", "bytes", "samples", "text")
    }
    assert all(torch.equal(tensor, adapter_of(again)[name]) for name, tensor in adapter_of(whole).items())
    assert rounds_of(again) == rounds_of(whole)


def test_a_finished_run_goes_on_to_the_bits_of_a_longer_one(tiny_config, tmp_path):
    # the rate depends on the progress of the run, but for a constant one
    config = tiny_config.override({"training.schedule": "constant", "training.warmup": 0.0})
    longer = config.override({"training.rounds": 3})
    straight = train(longer, tmp_path / "straight")
    first = train(config, tmp_path / "run")
    assert first.result["rounds"] == 2
    run = train(longer, tmp_path / "run", resume=True)
    assert run.result["rounds"] == 3 and rounds_of(run) == rounds_of(straight)
    assert all(torch.equal(tensor, adapter_of(run)[name]) for name, tensor in adapter_of(straight).items())
    assert run.result["eval"] == straight.result["eval"]
    for flow in (
        "activation_up",
        "gradient_down",
        "adapter_up",
        "adapter_down",
    ):  # not control: hello; nor evaluation: the shorter run's last loss was exact, too
        assert run.result["bytes"][flow] == straight.result["bytes"][flow]
    assert "rounds = 3" in (run.folder / "config.toml").read_text()
    with pytest.raises(RunError, match=r"training\.rounds was 3, is 2"):
        train(config, run.folder, resume=True)


def test_settings_that_training_does_not_depend_on_may_change(tiny_config, trained, tmp_path):
    run = trained(tiny_config, tmp_path / "run")
    assert "samples" not in run.result
    before = adapter_of(run)
    asks = {**TEXTS, "links.up_mbps": 2.0, "comparison.seeds": [1, 2]}
    asks |= {"engine.max_tokens_per_pass": 64, "evaluation.batch_size": 2}
    again = train(tiny_config.override(asks), run.folder, resume=True)
    assert len(again.result["samples"]) == 2 and again.result["text"]["prompts"] == 2
    fewer = train(tiny_config.override({**asks, "evaluation.generate": 1}), run.folder, resume=True)
    assert len(fewer.result["samples"]) == 1
    none = train(tiny_config, run.folder, resume=True)
    assert none.result == run.result
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_of(run).items())
    for change in ({"training.lr": 0.5}, {"evaluation.every": 2}, {"flows.gradient_down.codec": "int4"}):
        with pytest.raises(RunError, match=rf"{next(iter(change))} was .*training\.rounds can be raised"):
            train(tiny_config.override(change), run.folder, resume=True)


def test_a_run_is_said_to_be_saved_once_a_round_is(tiny_config, tmp_path):
    told = []

    class Heard(Observer):
        def on_round(self, lines):
            told.append(("done", lines[0]["round"]))

        def on_saved(self, round_index):
            told.append(("saved", round_index))

    train(tiny_config, tmp_path / "run", observers=[Heard()])
    assert told == [(what, index) for index in range(3) for what in ("done", "saved")]


def test_links_are_not_among_them_where_bits_depend_on_time(tiny_config, tmp_path):
    timed = {"federation.deadline_s": 50.0, "links.step_s": 0.1, "links.server_step_s": 0.1}
    config = tiny_config.override(timed)
    run = train(config, tmp_path / "run")
    with pytest.raises(RunError, match=r"links\.up_mbps was None, is 2\.0"):
        train(config.override({"links.up_mbps": 2.0}), run.folder, resume=True)


@pytest.fixture
def narrow(tiny_model, tmp_path) -> Path:
    """A GPT-2 of 100 positions whose tokenizer opens no text."""
    folder = tmp_path / "narrow"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=100,
        n_embd=32,
        n_layer=4,
        n_head=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_text_ends_where_the_models_positions_do(tiny_config, narrow, tmp_path):
    settings = {"model.source": str(narrow), "data.max_tokens": 100, "evaluation.max_new_tokens": 90}
    run = train(
        tiny_config.override({**settings, **TEXTS, "evaluation.max_new_tokens": 90}), tmp_path / "run"
    )
    assert run.result["warnings"] == [] and run.result["samples"]
    writer = writer_of(run.folder)
    short, long = "name", "name, " * 20
    assert 0 < writer.room_for(long) < writer.room_for(short) < 100
    apart = [writer.write([prompt])[0] for prompt in (short, long)]
    assert writer.write([short, long, short]) == [*apart, apart[0]]
    assert writer.write(["", short]) == [
        writer.write([""])[0],
        apart[0],
    ]  # of nothing, the first token is BOS
    with pytest.raises(ConfigError, match=r"has \d+ tokens, and .* takes 100 with what it writes; shorten"):
        writer.write([short, "name " * 130])


def test_text_ends_with_the_token_that_samples_end_with(tiny_config, tiny_model, tmp_path):
    source = copytree(tiny_model, tmp_path / "model")
    GenerationConfig().save_pretrained(source)  # it says nothing of what ends a text
    config = tiny_config.override({"model.source": str(source), "evaluation.max_new_tokens": 4})
    prompt = "name[Alder House]"
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = encode_prompt(prompt, tokenizer)[0][None]
    writer = Writer(load_parts(config), config)
    assert writer.write([prompt]) != [""]
    first = int(writer.logits(ids, torch.ones_like(ids))[0, -1].argmax())
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
    tokenizer.save_pretrained(source)
    assert Writer(load_parts(config), config).write([prompt]) == [""]


def test_before_and_after_are_of_one_model(tiny_model):
    split = cut(load_model(tiny_model), 2)
    ids = torch.tensor([[1, 2, 3]])
    base = split(ids)
    for part in split.parts:
        add_lora(part, 4, 8)
        for name, parameter in part.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    tuned = split(ids)
    with without_adapters(split.parts):
        assert torch.equal(split(ids), base)
    assert torch.equal(split(ids), tuned) and not torch.equal(base, tuned)


def test_a_copy_is_checked_without_the_models_weights(tiny_config, trained, tmp_path, monkeypatch):
    run = trained(tiny_config, tmp_path / "run")
    monkeypatch.setattr("splitcom.models.adapter_folder.load_model", None)
    export_run(run.folder, tmp_path / "out")
    assert (tmp_path / "out" / "adapter_config.json").exists()
    weights = run.adapter / "adapter_model.safetensors"
    (run.adapter / "checksums.json").unlink()  # as that of another tool, which has none
    save_file({name: tensor[..., 1:].contiguous() for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(AdapterError, match="no PEFT adapter that fits"):
        export_run(run.folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_not_used_and_written_again_on_resume(tiny_config, tmp_path, file):
    run = train(tiny_config.override({"training.rounds": 1}), tmp_path / "run")
    export_run(run.folder, tmp_path / "copy")
    before = (run.adapter / file).read_bytes()
    for folder in (run.adapter, tmp_path / "copy"):
        content = bytearray((folder / file).read_bytes())
        content[-3] ^= 1
        (folder / file).write_bytes(content)
    for use in (
        lambda: export_run(run.folder, tmp_path / "out"),
        lambda: export_run(run.folder, tmp_path / "out", merge=True),
        lambda: writer_of(run.folder),
    ):
        with pytest.raises(RunError, match=rf"the checksum of {file} does not hold.* --resume"):
            use()
    with pytest.raises(AdapterError, match=rf"damaged adapter \(the checksum of {file} does not hold\)"):
        check_adapter(tiny_config.model.source, tmp_path / "copy")
    train(tiny_config.override({"training.rounds": 1}), run.folder, resume=True)
    assert (run.adapter / file).read_bytes() == before
    export_run(run.folder, tmp_path / "out")


def test_merging_keeps_the_dtype_that_the_base_is_stored_in(tiny_config, tiny_model, tmp_path):
    base = load_model(tiny_model, dtype=torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "base")
    config = tiny_config.override({"model.source": str(tmp_path / "base")})  # trained in float32
    run = train(config, tmp_path / "run")
    export_run(run.folder, tmp_path / "out", merge=True)
    assert stored_dtype(tmp_path / "out") == torch.bfloat16
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("method", ["splitcom", "fedlora"])
def test_a_run_whose_adapters_have_not_moved_says_so(tiny_config, tmp_path, method, caplog):
    moved = train(tiny_config.override({"method": method, "training.rounds": 1}), tmp_path / "moved")
    evaluation = moved.result["eval"]
    lines = [json.loads(line) for line in (moved.folder / "metrics.jsonl").read_text().splitlines()]
    assert evaluation["fell_by"] == lines[0]["eval_loss"] - lines[-1]["eval_loss"] > 0
    assert evaluation["exact"] and (evaluation["loss"] == lines[-1]["eval_loss"]) == (method == "fedlora")
    assert moved.result["warnings"] == []
    idle = tiny_config.override({"method": method, **STILL, "training.rounds": 1, "evaluation.codec": "none"})
    run = train(idle, tmp_path / "idle")
    [warning] = run.result["warnings"]
    assert "the adapters have not moved" in warning and warning in caplog.text
    assert run.result["eval"]["fell_by"] == 0
    assert RunFolder(run.folder).result()["warnings"] == [warning]


def test_a_result_that_was_removed_is_made_anew_from_the_checkpoint(tiny_config, trained, tmp_path):
    run = trained(tiny_config, tmp_path / "run")
    (run.folder / "result.json").unlink()
    again = train(tiny_config, run.folder, resume=True)
    assert again.result["eval"] == run.result["eval"] and rounds_of(again) == rounds_of(run)
    assert again.result["bytes"]["activation_up"] == run.result["bytes"]["activation_up"]
