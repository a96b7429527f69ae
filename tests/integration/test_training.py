"""The training loop: equal to an uncut one, deterministic, resumable, and its books in order."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from splitcom.config import Config
from splitcom.errors import NonFiniteError, RunError
from splitcom.methods import METHODS
from splitcom.methods.run import configured, train
from splitcom.models import load_model
from splitcom.parties.texts import load_texts
from splitcom.seeds import derive_seed
from splitcom.server.observe import Observer
from splitcom.settings.presets import EVALUATION
from splitcom.training.channel import Channel
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import progress_of, round_batches

TEMPORAL = {
    "flows.activation_up.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.gradient_down.codec": "delta > int8(rounding=stochastic)",
    "flows.activation_up.controller": "linear(0.85, 0.95)",
    "lora.dropout": 0.1,
}
PREDICTED = {
    "flows.activation_up.codec": "predict > klt(16) > uniform(0.5, dead_zone=0.3, prompt=2) > range",
    "flows.gradient_down.codec": "predict(window=0) > klt(16, threshold=0.3, centre=sum) > uniform(2) > range",
}
REDUCED = {
    "flows.activation_up.codec": "temporal(0.95) > projection(4) > int8 > zstd",
    "flows.gradient_down.codec": "temporal(0.98) > projection(6, kind=pca) > fp16",
}

U_SHAPE = {
    "model.tail_blocks": 1,
    "flows.activation_down.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.activation_down.residual": True,
    "flows.gradient_up.codec": "delta > int8(rounding=stochastic)",
}


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def assert_same_adapter(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


class Stop(BaseException):  # as Ctrl-C; what else an observer raises ends nothing
    pass


class StopAt(Observer):
    """Breaks off in the middle of a round, as Ctrl-C or a crash would."""

    def __init__(self, round_index, step):
        self._at = (round_index, step)

    def on_step(self, report):
        if (report.round, report.step) == self._at:
            raise Stop


# Their resumed runs end with the same bits, here or in test_field.py.
ALSO_SAME = ("splitcom", "fedlora", "fda_opt", "eco_lora", "sf_prompt", "fedsa_lora")


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ALSO_SAME else []) for name in METHODS],
)
def test_the_same_seed_gives_the_same_bits(tiny_config, trained, tmp_path, method):
    config = tiny_config.override({"method": method, **TEMPORAL})
    first, second = trained(config), train(config, tmp_path / "again")
    assert_same_adapter(adapter_of(first), adapter_of(second))
    assert first.result["bytes"] == second.result["bytes"]
    assert first.result["eval"] == second.result["eval"]
    assert first.result["eval"]["loss"] < first.result["eval"]["initial_loss"]


IN_FILES = {"references.store": "file", "references.limit_mb": 0.02}
CODED = {"evaluation.exact_last": False}  # or else what is evaluated after an interruption builds on nothing
RESUMED = [
    ("splitcom", TEMPORAL),
    ("splitcom", PREDICTED | IN_FILES | CODED | {"evaluation.codec": PREDICTED["flows.activation_up.codec"]}),
    ("splitcom", REDUCED | IN_FILES),
    ("splitcom", {"training.body_update": "sequential", "federation.sample": 0.7}),
    ("splitcom", TEMPORAL | U_SHAPE | CODED | {"evaluation.codec": "temporal(0.99) > delta > int8"}),
    ("splitcom", {"preset": "quality", "model.tail_blocks": 1} | CODED),
    ("splitcom", {"preset": "quality", "evaluation.codec": EVALUATION}),
]
ALSO_RESUMED = [
    ("splitcom", TEMPORAL | IN_FILES),
    ("splitcom", REDUCED),
    ("splitcom", PREDICTED),
    ("splitcom", TEMPORAL | U_SHAPE | {"training.body_update": "sequential"}),
]


@pytest.mark.parametrize(
    ("method", "changes", "at"),
    [
        *((*case, (2, 1)) for case in RESUMED),  # in round 2, where references have been saved
        ("fedlora", {}, (2, 3)),
        *(pytest.param(*case, (2, 1), marks=pytest.mark.slow) for case in ALSO_RESUMED),
        *(pytest.param(*case, (1, 2), marks=pytest.mark.slow) for case in (*RESUMED, *ALSO_RESUMED)),
        pytest.param("fedlora", {}, (1, 3), marks=pytest.mark.slow),
    ],
)
def test_a_run_resumed_after_an_interruption_ends_with_the_same_bits(
    tiny_config, trained, tmp_path, method, changes, at
):
    config = tiny_config.override({"method": method, **changes})
    straight = trained(config)
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt(*at)])
    assert not (tmp_path / "halted" / "result.json").exists()
    resumed = train(config, tmp_path / "halted", resume=True)
    assert_same_adapter(adapter_of(straight), adapter_of(resumed))
    assert straight.result["eval"] == resumed.result["eval"]
    flows = [flow for flow in straight.result["bytes"] if flow not in ("control", "up", "down", "total")]
    assert {f: straight.result["bytes"][f] for f in flows} == {f: resumed.result["bytes"][f] for f in flows}
    rounds = [[(line["round"], line["client"]) for line in lines_of(run)] for run in (straight, resumed)]
    assert rounds[0] == rounds[1]


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_without_codecs_training_is_as_good_as_uncompressed_at_a_fraction_of_the_bytes(
    tiny_config, trained, tail_blocks
):
    config = tiny_config.override({"preset": "quality", "model.tail_blocks": tail_blocks})
    assert config.flows == Config().flows
    coded, plain = trained(config), trained(config.override({"method": "splitlora"}))
    assert coded.result["eval"]["loss"] == pytest.approx(plain.result["eval"]["loss"], rel=0.01)
    at_cut = [sum(run.result["bytes"][flow] for flow in config.cut_flows) for run in (coded, plain)]
    assert at_cut[0] < at_cut[1] / 4


def test_labels_that_the_server_has_spare_bytes_of_first_visits(tiny_config, trained):
    config = tiny_config.override({"preset": "quality"})
    text = config.flows.codec("activation_up")
    without = config.override({"flows.activation_up.codec": text.replace(", guess=labels", "")})
    guessed, plain = (
        sum(line["bytes"]["activation_up"] for line in lines_of(trained(one)) if line["round"] == 1)
        for one in (config, without)
    )
    assert 0 < guessed < 0.9 * plain


def test_projections_train_alike_with_a_tenth_of_the_references(tiny_config, tmp_path):
    first = train(tiny_config.override(REDUCED), tmp_path / "run")
    skipped = [line["skip_ratio"] for line in lines_of(first) if line["round"] == 2]
    assert all(0 < sum(ratio[flow] for ratio in skipped) < 3 for flow in ("activation_up", "gradient_down"))

    def kept(party, flow, width):
        files = sorted((first.folder / "checkpoint").rglob(f"round-00002/references-*{flow}.safetensors"))
        assert len(files) == 6
        tensors = [
            load_file(file) for file in files if (file.parents[1].name == "server") == (party == "server")
        ]
        assert len(tensors) == 3
        assert all(len(file["values"]) == width * file["lengths"].sum() for file in tensors)
        return [{name: file[name].tolist() for name in ("ids", "versions", "checksums")} for file in tensors]

    assert kept("client", "activation_up", 4 + 2) == kept("server", "activation_up", 32)
    assert kept("client", "gradient_down", 32) == kept("server", "gradient_down", 6 + 2)


def test_centralised_training_is_a_plain_peft_loop_bit_for_bit(tiny_config, tmp_path):
    config = configured(tiny_config.override({"method": "centralised"}))
    run = train(config, tmp_path / "run")
    untrained = train(config.override({"training.lr": 1e-30, "training.rounds": 1}), tmp_path / "start")

    model = PeftModel.from_pretrained(
        load_model(config.model.source), str(untrained.adapter), is_trainable=True
    ).train()
    samples = load_texts(config).partition.parts[0]
    optimizer = Optimizer((p for p in model.parameters() if p.requires_grad), config.training)
    for round_index in (1, 2):
        plan = round_batches(samples, config, "client-0", round_index)
        for step, batch in enumerate(plan):
            torch.manual_seed(derive_seed(config.seed, "client-0", round_index, step))
            model(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()
            optimizer.step(progress_of(config, round_index, step, len(plan)))
    model.save_pretrained(tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    assert_same_adapter(plain, adapter_of(run))


def test_one_uncompressed_client_trains_as_if_nothing_were_split(tiny_config, tmp_path):
    exact = {
        "federation.clients": 1,
        "flows.adapter_up.codec": "none",
        "flows.adapter_down.codec": "none",
        "training.clip_norm": 1e9,  # the norm of the whole is known to nobody where the model is split
        "flows.activation_up.codec": "none",
        "flows.gradient_down.codec": "none",
        "evaluation.codec": "none",
    }
    split = train(tiny_config.override(exact), tmp_path / "split")
    whole = train(tiny_config.override(exact | {"method": "centralised"}), tmp_path / "whole")
    assert_same_adapter(adapter_of(split), adapter_of(whole))
    assert split.result["eval"]["loss"] == pytest.approx(whole.result["eval"]["loss"], rel=1e-12)
    assert set(whole.result["bytes"].values()) == {0}


def test_the_books_add_up(tiny_config, trained):
    run = trained(tiny_config.override({"method": "splitcom", **TEMPORAL}))
    lines = lines_of(run)
    result = run.result
    finish = dict.fromkeys(("control", "down", "total"), 3 * 2)  # the last message comes after the last line
    for key in result["bytes"]:
        for books in ("bytes", "uncompressed_bytes"):
            assert sum(line[books][key] for line in lines) + finish.get(key, 0) == result[books][key], (
                books,
                key,
            )
    sent = result["bytes"]
    flows = [flow for flow in sent if flow not in ("up", "down", "total")]
    assert sent["total"] == sent["up"] + sent["down"] == sum(sent[flow] for flow in flows)
    assert [line["round"] for line in lines] == [0] * 3 + [1] * 3 + [2] * 3
    assert all(line["skip_ratio"]["activation_up"] == 0 for line in lines if line["round"] == 1)
    assert any(line["skip_ratio"]["activation_up"] > 0 for line in lines if line["round"] == 2)
    assert 0 < result["saving"]["up"] < 1


@pytest.mark.parametrize("codec", ["none", "delta > int8 > zstd", EVALUATION])
@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_held_out_samples_cost_what_has_changed_of_them_and_the_last_loss_is_exact(
    tiny_config, trained, codec, tail_blocks
):
    changes = {"evaluation.codec": codec, "model.tail_blocks": tail_blocks, "training.rounds": 3}
    run = trained(tiny_config.override(changes))
    plain = trained(tiny_config.override(changes | {"evaluation.codec": "none"}))
    assert_same_adapter(adapter_of(run), adapter_of(plain))
    found = run.result["eval"]
    same = plain.result["eval"]["loss"]
    assert found["exact"] and found["loss"] == (
        pytest.approx(same, rel=2e-4) if codec == EVALUATION else same
    )
    losses, exact = ([line["eval_loss"] for line in lines_of(of)] for of in (run, plain))
    assert losses == pytest.approx(exact, rel=0.02)
    size = dict.fromkeys(range(4), 0)
    for line in lines_of(run):
        size[line["round"]] += line["bytes"]["evaluation"]
        sent, whole = line["bytes"], line["uncompressed_bytes"]
        assert whole["total"] - whole["evaluation"] >= sent["total"] - sent["evaluation"]
    if codec != "none":
        assert size[1] < size[0], "labels are sent once, and of hidden states what has changed"
        whole = sum(line["uncompressed_bytes"]["evaluation"] for line in lines_of(run) if line["round"] == 1)
        assert size[1] < whole
        assert size[3] > size[2], "the exact one"


@pytest.mark.parametrize("codec", ["none", "delta > int8 > zstd"])
def test_a_loss_is_exact_if_nothing_is_coded(tiny_config, tmp_path, codec):
    changes = {"evaluation.codec": codec, "evaluation.exact_last": False, "training.rounds": 1}
    run = train(tiny_config.override(changes), tmp_path / "run")
    assert run.result["eval"]["exact"] == (codec == "none")


def test_uncompressed_split_training_saves_nothing(tiny_config, trained):
    run = trained(tiny_config.override({"method": "splitlora"}))
    assert run.result["bytes"] == run.result["uncompressed_bytes"]
    assert run.result["saving"] == {"up": 0.0, "down": 0.0, "total": 0.0}


def test_a_frozen_front_sends_each_activation_once_and_gets_nothing_back(tiny_config, tmp_path):
    run = train(tiny_config.override({"method": "frozen_front"}), tmp_path / "run")
    sent = run.result["bytes"]
    assert sent["gradient_down"] == sent["adapter_up"] == sent["adapter_down"] == 0
    rounds = [0, 0, 0]
    for line in lines_of(run):
        rounds[line["round"]] += line["bytes"]["activation_up"]
    assert rounds[2] < 0.05 * rounds[1]


def test_clients_of_different_sizes_all_train_to_the_end(tiny_config, tmp_path):
    uneven = {"partition.kind": "dirichlet_length", "partition.alpha": 0.4, "seed": 2}
    run = train(tiny_config.override(uneven), tmp_path / "run")
    steps = {line["client"]: line["steps"] for line in lines_of(run) if line["round"] == 2}
    assert len(set(steps.values())) > 1
    sizes = {
        f"client-{index}": -(-len(part) // 4)
        for index, part in enumerate(load_texts(tiny_config.override(uneven)).partition.parts)
    }
    assert steps == sizes


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_divergence_is_named_and_no_client_is_blamed(tiny_config, tmp_path, caplog, tail_blocks):
    changes = {"training.lr": 1e30, "training.clip_norm": 1e30, "training.warmup": 0.0}
    config = tiny_config.override(changes | {"model.tail_blocks": tail_blocks})
    where = r"client-\d, round \d, step \d, flow (activation_up|gradient_down)|of a step of the body"
    with pytest.raises(NonFiniteError, match=rf"({where}).*; training has diverged: lower training\.lr"):
        train(config, tmp_path / "run")
    assert "refused" not in caplog.text


def test_a_used_folder_and_a_changed_configuration_are_refused(tiny_config, trained):
    config = tiny_config.override({"method": "splitlora"})
    run = trained(config)
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"exists; continue it with --resume"):
        train(config, run.folder)
    with pytest.raises(RunError, match=r"training\.lr was 0\.01, is 0\.5"):
        train(config.override({"training.lr": 0.5}), run.folder, resume=True)
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_a_folder_that_cannot_be_written_is_named(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/run: cannot write the run folder"):
        train(tiny_config, Path(tmp_path / "file" / "run"))


def test_evaluation_keeps_to_its_share_and_goes_on_after_an_interruption(tiny_config, trained, tmp_path):
    changes = {
        "evaluation.share": 0.5,
        "training.rounds": 4,
        "data.samples": 160,
        "data.held_out_samples": 60,
    }
    changes |= {  # dear, beside cheap training
        "evaluation.codec": "fp16",
        "flows.gradient_down.codec": "int4",
    }
    run = trained(tiny_config.override(changes))
    sent, found = run.result["bytes"], run.result["eval"]
    assert sent["evaluation"] <= 0.5 * (sent["total"] - sent["evaluation"])
    rows = [line["eval_rows"] for line in lines_of(run) if line["client"] == "client-0"]
    assert rows[0] == rows[-1] == found["rows"] == 21 and set(rows) == {21, None}
    with pytest.raises(Stop):
        train(tiny_config.override(changes), tmp_path / "halted", observers=[StopAt(3, 1)])
    again = train(tiny_config.override(changes), tmp_path / "halted", resume=True)
    assert again.result["eval"] == found and again.result["bytes"]["evaluation"] == sent["evaluation"]


@pytest.mark.parametrize("form", [{}, U_SHAPE])
def test_between_rounds_neither_end_holds_a_batch(tiny_config, tmp_path, monkeypatch, form):
    """A server may have thousands of clients at rest."""
    channels, make, holding = [], Channel.__init__, []

    def spy(channel, *args, **settings):
        channels.append(channel)
        make(channel, *args, **settings)

    def batches(round_index):
        holding.extend(one.flow for one in channels if (one._last or one._passed) is not None)

    monkeypatch.setattr(Channel, "__init__", spy)
    along = {
        "flows.gradient_down.codec": "predict(window=0) > klt(16, centre=sum, along=2) > uniform(2) > range"
    }
    saves = Observer()
    saves.on_saved = batches

    train(
        tiny_config.override(PREDICTED | along | form | {"training.rounds": 1}), tmp_path, observers=[saves]
    )

    assert channels and not holding
