"""The command line as a user meets it: what works, and what wrong input is told."""

import io
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitcom.cli import main
from splitcom.training import store

from .parties import Party, fork_server


@pytest.fixture
def splitcom(monkeypatch, capsys):
    """Run a command in this process; gives exit code, standard output and standard error on one line each."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["splitcom", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, " ".join(err.split())

    return run


@pytest.fixture
def config_file(tiny_config, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(tiny_config.to_toml())
    return path


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("mr,text,label\n" + "".join(f"name[A{i}],A{i} is a place.,{i % 2}\n" for i in range(30)))
    return path


def test_a_run_from_file_to_report_and_merged_model(splitcom, config_file, tmp_path, monkeypatch):
    run = tmp_path / "run"
    code, out, _ = splitcom("train", config_file, "--out", run, "--set", "evaluation.generate=1")
    assert code == 0
    assert {path.name for path in run.iterdir()} == {
        "config.toml", "metrics.jsonl", "result.json", "adapter", "checkpoint", "report.html",
    }  # fmt: skip
    result = json.loads((run / "result.json").read_text())
    assert f"{result['eval']['loss']:.3f}" in out and "before" in out
    assert splitcom("export", run, tmp_path / "merged", "--merge")[0] == 0
    assert splitcom("export", run, tmp_path / "adapter")[0] == 0
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    base = load_file(Path(result["model"]) / "model.safetensors")
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed and all(re.search(r"\.[qv]_proj\.", name) for name in changed)
    code, out, _ = splitcom("watch", run)
    assert code == 0 and "round 2 of 2" in out
    assert len(re.findall(r"^round \d of 2  loss .* held-out loss \d", out, re.MULTILINE)) == 3  # a line each
    assert splitcom("train", "--resume", "--out", run, "--quiet")[:2] == (0, "")
    code, out, _ = splitcom("train", "--resume", "--out", run, "--json")
    assert code == 0 and json.loads(out) == json.loads((run / "result.json").read_text())
    code, out, _ = splitcom("evaluate", run, "--prompts", "3", "--set", "evaluation.max_new_tokens=4")
    assert code == 0 and "bleu" in out and (run / "evaluation.json").exists()
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    code, out, err = splitcom("evaluate", run)
    assert code == 0 and "perplexity" in out and "bleu" not in out and "splitcom[eval]" in err
    code, _, err = splitcom("evaluate", run, "--prompts", "3")
    assert code == 1 and "splitcom[eval]" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("name[Alder] =>\n\nname[Elm] =>\n"))  # as on a pipe
    code, out, _ = splitcom("generate", run, "--max-new-tokens", "3")
    assert code == 0 and "name[Alder] =>" in out and "name[Elm] =>" in out and "front to body" in out
    code, _, err = splitcom("generate", run)
    assert code == 1 and "nothing to continue; give a text with --prompt" in err
    code, _, err = splitcom("export", run, tmp_path / "merged")
    assert code == 1 and "merged: exists already" in err
    assert splitcom("report", run)[0] == 0


def test_compare_runs_what_is_missing_only(splitcom, config_file, tmp_path):
    out = tmp_path / "comparison"
    once = ("--set", "training.rounds=1")
    arguments = ("compare", config_file, "--methods", "splitlora,splitcom", "--out", out, *once)
    assert splitcom(*arguments, "--seeds", "0")[0] == 0
    first = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    code, printed, _ = splitcom(*arguments, "--seeds", "0,1")
    assert code == 0 and "splitlora" in printed
    assert len(json.loads((out / "comparison.json").read_text())["runs"]) == 4
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items())
    assert (out / "report.html").exists()
    assert splitcom("report", out, "--markdown", tmp_path / "results.md")[0] == 0
    assert "splitcom" in (tmp_path / "results.md").read_text()


def test_inspect_says_what_a_client_needs(splitcom, tiny_model):
    def asked(*more):
        code, out, err = splitcom("inspect", tiny_model, "--cut", 1, "--client", "--json", *more)
        assert code == 0, err
        return json.loads(out)

    plain = asked()
    front = next(part for part in plain["model"]["parts"] if part["name"] == "front")
    assert plain["model"]["dtype"] == "float32"  # by the name that settings have
    assert plain["client"]["weights"] == front["weight_bytes"]
    assert plain["client"]["optimizer"] == 8 * front["lora_parameters"]
    less = asked("--set", "training.accumulate=4")
    assert less["client"]["activations"] < plain["client"]["activations"] / 2
    code, out, _ = splitcom("inspect", tiny_model, "--cut", 1, "--client")
    assert code == 0 and "activations" in out and "together" in out


SAME = {
    "model.cut=3": ("--cut", 3),
    "model.tail_blocks=1": ("--tail-blocks", 1),
    "lora.rank=2": ("--rank", 2),
    "training.batch_size=2": ("--batch-size", 2),
}


@pytest.mark.parametrize("assignment", SAME)
def test_inspect_takes_a_setting_as_the_option_of_the_same_meaning_which_comes_first(
    splitcom, tiny_model, assignment
):
    def asked(*more):
        code, out, err = splitcom("inspect", "--json", *more)
        assert code == 0, err
        found = json.loads(out)
        if "client" in found:
            found["client"].pop("libraries")  # what this very process holds
        return found

    plain = asked(tiny_model, "--client")
    by_option = asked(tiny_model, "--client", *SAME[assignment])
    assert by_option != plain
    assert asked("--set", f"model.source={tiny_model}", "--client", "--set", assignment) == by_option
    other = assignment.partition("=")[0] + "=1"
    assert asked(tiny_model, "--client", *SAME[assignment], "--set", other) == by_option


def test_inspect_takes_classes_from_settings_too_for_all_that_it_shows(splitcom, tiny_model):
    labels = ("--set", "data.task=classification", "--set", 'data.labels=["a", "b", "c"]')
    of_options, of_settings = (
        splitcom("inspect", tiny_model, "--tail-blocks", 1, "--client", "--json", *given)
        for given in (("--classes", 3), labels)
    )
    assert json.loads(of_options[1])["model"] == json.loads(of_settings[1])["model"]
    needs = [json.loads(out)["client"]["adapter"] for _, out, _ in (of_options, of_settings)]
    assert needs[0] == needs[1]


def test_inspect_that_is_refused_shows_nothing_before(splitcom, tiny_model):
    code, out, err = splitcom("inspect", tiny_model, "--link", "10")
    assert code == 1 and "--link 10: expected Mbit/s up and down" in err
    assert out == ""
    code, out, err = splitcom("inspect", tiny_model, "--set", "model.cut=9")
    assert code == 1 and out == "" and "cut" in err


def test_inspect_shows_a_classifiers_parts(splitcom, tiny_model):
    code, out, _ = splitcom("inspect", tiny_model, "--classes", 2)
    assert code == 0 and "classification head, trained whole: 64 parameters" in out


def test_a_dry_run_foretells_bytes_and_seconds_and_writes_nothing(splitcom, config_file, tmp_path):
    run = tmp_path / "run"
    code, out, _ = splitcom("train", config_file, "--out", run, "--dry-run", "--link", "1/4")
    assert code == 0 and not run.exists()
    assert "over 1/4 Mbit/s" in out and "2, the last" in out
    assert out.startswith("data: ") and "activations" in out and "server: " in out  # memory of both
    code, _, err = splitcom("train", config_file, "--out", run, "--dry-run", "--link", "fast")
    assert code == 1 and "--link fast: expected Mbit/s up and down" in err


def test_inspect_shows_seconds_on_a_link(splitcom, tiny_model):
    code, out, _ = splitcom("inspect", tiny_model, "--cut", 1, "--link", "1/4")
    assert code == 0 and "seconds on the link" in out


def test_inspect_shows_parts_and_flows(splitcom, tiny_model):
    code, out, _ = splitcom("inspect", tiny_model, "--cut", 1, "--batch-size", 2, "--tokens", 10)
    assert code == 0
    assert all(word in out for word in ("front", "body", "activation_up", "gradient_down"))
    sizes = dict(re.findall(r"(gradient_down|evaluation of as many held-out samples) +([\d.]+ kB)", out))
    assert (
        len(sizes) == 2 and len({*sizes.values()}) == 1
    )  # activations of an evaluation are as large as a step's


WRONG = {
    "missing configuration": (["{tmp}/absent.toml"], r"absent\.toml: no such file"),
    "rows in place of settings": (["{csv}"], r"rows\.csv: rows, not settings; `splitcom init .*rows\.csv` writes"),
    "unknown preset": (["{config}", "--set", "preset=fast"], r"--set preset = 'fast': no such preset; there are"),
    "misspelt key": (["{config}", "--set", "training.round=3"], r"--set training\.round: unknown key; did you mean"),
    "misspelt section": (["{config}", "--set", "trainin.rounds=3"], r"--set trainin: unknown key; did you mean"),
    "no value": (["{config}", "--set", "training.rounds"], r"--set training\.rounds: expected key=value"),
    "missing data": (["{config}", "--set", "data.source={tmp}/absent.csv"], r"absent\.csv: no such file"),
    "missing column": (["{config}", "--set", "data.source={csv}", "--set", "data.response=txt"],
                       r"rows\.csv:2: no column 'txt'.*found: mr, text, label.*did you mean 'text'"),
    "missing column of the prompt": (["{config}", "--set", "data.source={csv}", "--set", "data.prompt={{meaning}}"],
                                     r"no column 'meaning'.*found: mr, text, label"),
    "empty data": (["{config}", "--set", "data.source={tmp}/empty.csv"], r"empty\.csv: no rows"),
    "more clients than samples": (["{config}", "--set", "data.samples=2"], r"2 samples to train on, too few for 3 cl"),
    "more held out than there is": (["{config}", "--set", "data.source={csv}", "--set", "data.held_out_samples=30"],
                                    r"data\.held_out_samples = 30: .*rows\.csv has 30 rows"),
    "cut outside the model": (["{config}", "--set", "model.cut=4"], r"model\.cut = 4 .*take a cut of 1 to 3"),
    "missing model": (["{config}", "--set", "model.source={tmp}/absent"], r"absent: no such folder"),
    "unknown stage": (["{config}", "--set", "flows.activation_up.codec=temporl(0.9)"],
                      r"activation_up\.codec.*temporl.*temporal"),
    "wrong argument": (["{config}", "--set", "flows.activation_up.codec=temporal(1.5)"],
                       r"activation_up\.codec.*threshold"),
    "unknown method": (["{config}", "--set", "method=splitcomm"],
                       r"method = 'splitcomm': no such method; there are splitlora"),
    "unknown target": (["{config}", "--set", "lora.targets=['queries']"], r"targets.*queries.*q_proj"),
    "unknown device": (["{config}", "--set", "model.device=tpu"], r"model\.device = 'tpu'"),
    "unwritable folder": (["{config}", "--out", "{csv}/run"], r"rows\.csv/run: cannot write the run folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named_and_leaves_nothing(splitcom, config_file, csv_file, tmp_path, case):
    (tmp_path / "empty.csv").write_text("mr,text\n")
    arguments, expected = WRONG[case]
    places = {"tmp": tmp_path, "config": config_file, "csv": csv_file}
    arguments = [argument.format(**places) for argument in arguments]
    out = [] if "--out" in arguments else ["--out", tmp_path / "run"]
    before = sorted(tmp_path.iterdir())
    code, _, err = splitcom("train", *arguments, *out)
    assert code == 1
    assert re.search(expected, err), err
    assert sorted(tmp_path.iterdir()) == before


def test_earlier_results_are_never_touched(splitcom, config_file, tmp_path):
    run = tmp_path / "run"
    assert splitcom("train", config_file, "--out", run)[0] == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, _, err = splitcom("train", config_file, "--out", run)
    assert code == 1 and f"{run}: this run folder exists; continue it with --resume" in err
    code, _, err = splitcom("train", config_file, "--out", run, "--resume", "--set", "training.lr=0.5")
    assert code == 1 and "training.lr was 0.01, is 0.5" in err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_full_disk_is_named_and_the_run_resumes(splitcom, config_file, tmp_path, monkeypatch):
    real = store.save_file
    calls = []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 3:  # in the checkpoint after round 1
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(store, "save_file", full)
    run = tmp_path / "run"
    code, _, err = splitcom("train", config_file, "--out", run)
    assert code == 1 and "cannot write the checkpoint: No space left on device" in err
    monkeypatch.undo()
    code, *_ = splitcom("train", config_file, "--out", run, "--resume")
    assert code == 0 and (run / "result.json").exists()


def test_an_adapter_of_another_model_is_refused(splitcom, config_file, tmp_path):
    run = tmp_path / "run"
    assert splitcom("train", config_file, "--out", run)[0] == 0
    weights = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor[..., :4].contiguous() for name, tensor in tensors.items()}, weights)
    (run / "adapter" / "checksums.json").unlink()  # somebody has changed it on purpose
    code, _, err = splitcom("export", run, tmp_path / "out", "--merge")
    assert code == 1 and "no PEFT adapter that fits" in err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_bits(splitcom, config_file, tmp_path):
    long = ["training.rounds=4", "data.samples=9", "data.held_out_samples=3"]
    settings = [word for change in long for word in ("--set", change)]
    halted, straight = tmp_path / "halted", tmp_path / "straight"
    party = Party(fork_server(), tmp_path / "log", "train", config_file, *settings, "--out", halted)
    party.start(hold=3).wait_until_held()
    os.kill(party.process.pid, signal.SIGINT)
    party.end(code=130)
    assert "--resume" in party.log
    assert not (halted / "result.json").exists()
    assert splitcom("train", config_file, *settings, "--out", halted, "--resume")[0] == 0
    assert splitcom("train", config_file, *settings, "--out", straight)[0] == 0
    one, other = (load_file(out / "adapter" / "adapter_model.safetensors") for out in (halted, straight))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_controllers_that_do_not_fit_are_explained(splitcom, config_file, tmp_path):
    out = ("--out", tmp_path / "new")
    code, _, err = splitcom("train", config_file, *out, "--controller-from", tmp_path / "old")
    assert code == 1 and "old/controller has no controller for this run" in err
    code, _, err = splitcom("train", config_file, *out, "--set", "flows.gradient_down.controller=fixed(0.9)")
    assert code == 1 and "'int8 > zstd' has none; begin it with a temporal stage" in err
    assert not (tmp_path / "new").exists()
