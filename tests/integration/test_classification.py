"""Texts with classes through the one training loop: equal to an uncut model, resumable, and its results in order."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from splitcom.codecs import Decoded, Ragged
from splitcom.config import Config
from splitcom.data import HELD_OUT_DOMAIN, generate
from splitcom.engines.local import LocalEngine
from splitcom.errors import ConfigError, CutError, DataError, RemoteProtocolError
from splitcom.methods import METHODS
from splitcom.methods.evaluate import evaluate_run, writer_of
from splitcom.methods.export import export_run
from splitcom.methods.run import configured, train
from splitcom.models import adapter_state, load_front, load_model, load_tail, renew_head
from splitcom.models.front import write_front
from splitcom.parties.parts import body_of, load_server_parts
from splitcom.parties.rows import load_client_rows, with_classes
from splitcom.parties.texts import load_texts
from splitcom.protocol.labels import pack_labels, unpack_labels
from splitcom.seeds import derive_seed
from splitcom.server.admission import Admission
from splitcom.server.observe import Observer
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import progress_of, round_batches

LABELS = ["2", "10"]
STANDARD = METHODS.keys() - {"sf_prompt", "res_bm", "fedsa_lora"}  # which leave more than an adapter, or less
CODED = {"split_ft", "split_lite", "aq_sgd"}  # as splitcom, by other codecs


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences whose last character tells the class."""
    rows = enumerate(generate(HELD_OUT_DOMAIN, 40))
    lines = [f"{row['text']} So {'?!'[i % 2]}\t{LABELS[i % 2]}" for i, row in rows]
    file = tmp_path_factory.mktemp("classes") / "texts.tsv"
    file.write_text("\n".join(["sentence\tkind", *lines]) + "\n")
    return file


@pytest.fixture
def config(tiny_config: Config, texts: Path) -> Config:
    return tiny_config.override(
        {
            "data.task": "classification",
            "data.source": str(texts),
            "data.prompt": "{sentence}",
            "data.response": "kind",
            "data.held_out_samples": 15,
        }
    )


@pytest.fixture(scope="session")
def tiny_bert(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of three blocks without a head, with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    for file in tiny_model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=500,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        pad_token_id=0,
        hidden_dropout_prob=0.0,  # the parties draw their own
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def assert_same_adapter(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@torch.no_grad()
def accuracy_of(model, config):
    """Of a standard transformers model, one held-out text at a time."""
    samples = load_texts(config).held_out.samples
    found = [int(model(input_ids=sample.input_ids[None]).logits.argmax()) for sample in samples]
    return sum(f == int(s.labels) for f, s in zip(found, samples, strict=True)) / len(samples)


@pytest.mark.parametrize(
    ("method", "tail_blocks"),
    [
        *((method, 0) for method in sorted(STANDARD - CODED)),
        ("splitcom", 1),
        *(pytest.param(method, 0, marks=pytest.mark.slow) for method in sorted(CODED)),
        pytest.param("splitlora", 1, marks=pytest.mark.slow),
    ],
)
def test_every_method_learns_classes_and_writes_a_standard_adapter(config, tmp_path, method, tail_blocks):
    changes = {"method": method, "model.tail_blocks": tail_blocks, "training.rounds": 5}
    if method == "splitcom":  # with the codecs that are taken if none are set
        changes |= {"preset": "quality", "evaluation.codec": config.evaluation.codec}
    run = train(config.override(changes), tmp_path / "run")
    written = Config.load(run.folder / "config.toml")
    assert written.data.labels == LABELS
    evaluation = run.result["eval"]
    assert evaluation["loss"] < evaluation["initial_loss"]
    base = AutoModelForSequenceClassification.from_pretrained(config.model.source, num_labels=2)
    tuned = PeftModel.from_pretrained(base, run.adapter).eval()
    assert accuracy_of(tuned, written) == pytest.approx(evaluation["accuracy"])
    assert evaluation["accuracy"] > 0.8
    confusion = run.result["confusion"]
    assert confusion["labels"] == LABELS
    held_out = Counter(int(sample.labels) for sample in load_texts(written).held_out.samples)
    assert [sum(row) for row in confusion["counts"]] == [held_out[place] for place in range(2)]
    right = sum(row[place] for place, row in enumerate(confusion["counts"]))
    assert right / held_out.total() == pytest.approx(evaluation["accuracy"])
    lines = lines_of(run)
    assert lines[-1]["eval_accuracy"] == evaluation["accuracy"]
    assert all((line["accuracy"] is None) == (line["round"] == 0) for line in lines)
    assert 0.5 < lines[-1]["accuracy"] <= 1
    assert (run.result["bytes"]["labels_up"] == 0) == (tail_blocks > 0 or not written.training.split)
    if run.result["bytes"]["labels_up"]:
        assert run.result["bytes"]["labels_up"] < 20 * 25  # once, and not by token


def test_sf_prompt_learns_classes_and_what_is_beside_the_adapter_is_read_again(config, tmp_path):
    changes = {"method": "sf_prompt", "client.bypass_epochs": 1, "training.rounds": 3}
    run = train(config.override(changes), tmp_path / "run")
    assert run.result["eval"]["loss"] < run.result["eval"]["initial_loss"]
    found = evaluate_run(run.folder)
    assert found["loss"] == pytest.approx(run.result["eval"]["loss"], rel=1e-4)
    assert found["accuracy"] == run.result["eval"]["accuracy"]
    assert found["confusion"] == run.result["confusion"]


@pytest.mark.parametrize("tail_blocks", [0, 1])
@pytest.mark.parametrize("base", ["tiny_model", "tiny_bert"])
def test_one_uncompressed_client_trains_as_if_nothing_were_split(config, trained, base, tail_blocks, request):
    exact = {
        "model.source": str(request.getfixturevalue(base)),
        "model.cut": 1,
        "federation.clients": 1,
        "flows.adapter_up.codec": "none",
        "flows.adapter_down.codec": "none",
        "training.clip_norm": 1e9,
        "flows.activation_up.codec": "none",
        "flows.gradient_down.codec": "none",
        "evaluation.codec": "none",
    }
    shape = {
        "model.tail_blocks": tail_blocks,
        "flows.activation_down.codec": "none",
        "flows.gradient_up.codec": "none",
    }
    split = trained(config.override(exact | shape))
    whole = trained(config.override(exact | {"method": "centralised"}))
    assert_same_adapter(adapter_of(split), adapter_of(whole))
    assert split.result["eval"]["loss"] == pytest.approx(whole.result["eval"]["loss"], rel=1e-12)
    assert split.result["eval"]["accuracy"] == whole.result["eval"]["accuracy"]


def test_centralised_training_is_a_plain_peft_loop_bit_for_bit(config, tmp_path):
    config = with_classes(configured(config.override({"method": "centralised"})))
    run = train(config, tmp_path / "run")
    untrained = train(config.override({"training.lr": 1e-30, "training.rounds": 1}), tmp_path / "start")

    base = load_model(config.model.source, labels=LABELS)
    model = PeftModel.from_pretrained(base, str(untrained.adapter), is_trainable=True).train()
    samples = load_texts(config).partition.parts[0]
    own = {name.replace(".modules_to_save.default", "").replace(".default", ""): p
           for name, p in model.named_parameters() if p.requires_grad}  # fmt: skip
    optimizer = Optimizer(own.values(), config.training)
    padding = base.config.pad_token_id
    for round_index in (1, 2):
        plan = round_batches(samples, config, "client-0", round_index)
        for step, batch in enumerate(plan):
            torch.manual_seed(derive_seed(config.seed, "client-0", round_index, step))
            ids = batch.input_ids.masked_fill(batch.attention_mask == 0, padding)
            model(ids, attention_mask=batch.attention_mask, labels=batch.labels[:, 0]).loss.backward()
            optimizer.step(progress_of(config, round_index, step, len(plan)))
    assert_same_adapter({name: p.detach() for name, p in own.items()}, adapter_of(run))


class Stop(BaseException):  # as Ctrl-C; what else an observer raises ends nothing
    pass


class StopAt(Observer):
    def on_step(self, report):
        if report.round == 2:
            raise Stop


@pytest.mark.parametrize(("method", "tail_blocks"), [("splitcom", 0), ("splitcom", 1), ("fedlora", 0)])
def test_a_run_resumed_after_an_interruption_ends_with_the_same_bits(
    config, trained, tmp_path, method, tail_blocks
):
    changes = {"method": method, "model.tail_blocks": tail_blocks, "training.rounds": 3}
    config = config.override(changes)
    straight = trained(config)
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt()])
    resumed = train(config, tmp_path / "halted", resume=True)
    assert_same_adapter(adapter_of(straight), adapter_of(resumed))
    assert straight.result["eval"] == resumed.result["eval"]
    rates = [[line["eval_accuracy"] for line in lines_of(run)] for run in (straight, resumed)]
    assert rates[0] == rates[1]
    assert straight.result["bytes"]["evaluation"] == resumed.result["bytes"]["evaluation"]


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_held_out_texts_build_on_the_evaluation_before_and_the_last_one_is_exact(
    config, trained, tail_blocks
):
    changes = {"model.tail_blocks": tail_blocks, "training.rounds": 3}
    coded = trained(config.override(changes))
    plain = trained(config.override(changes | {"evaluation.codec": "none"}))
    assert_same_adapter(adapter_of(coded), adapter_of(plain))
    assert coded.result["eval"]["accuracy"] == plain.result["eval"]["accuracy"]
    assert coded.result["eval"]["loss"] == pytest.approx(plain.result["eval"]["loss"], rel=1e-3)
    losses, exact = ([line["eval_loss"] for line in lines_of(run)] for run in (coded, plain))
    assert losses == pytest.approx(exact, rel=0.02)
    sent = [
        sum(line["bytes"]["evaluation"] for line in lines_of(coded) if line["round"] == index)
        for index in range(4)
    ]
    assert sent[3] > sent[2], "the exact one"
    if not tail_blocks:
        assert max(sent[1:3]) < sent[0], "labels are sent once"


def test_labels_under_noise_are_what_is_trained_on_and_held_out_ones_are_as_they_are(config, tmp_path):
    def run(epsilon):
        changes = {"client.label_noise": f"randomised({epsilon})", "training.rounds": 1}
        return train(config.override(changes), tmp_path / epsilon)

    plain = train(config.override({"training.rounds": 1}), tmp_path / "plain")
    hardly, most = run("30"), run("0.1")
    assert_same_adapter(adapter_of(plain), adapter_of(hardly))
    assert not all(map(torch.equal, adapter_of(plain).values(), adapter_of(most).values()))
    counts = [list(map(sum, one.result["confusion"]["counts"])) for one in (plain, most)]
    assert counts[0] == counts[1]
    told = most.result["privacy"]["labels"]
    assert told["epsilon"] == 0.1 and told["kept"] == pytest.approx(0.525, abs=1e-3)
    assert "labels of held-out samples, as they are" in told["not_covered"]
    assert any("client.label_noise" in warning for warning in most.result["warnings"])
    with pytest.raises(ConfigError, match="the labels are the text"):
        config.override({"data.task": "generation", "client.label_noise": "randomised(1)"})


def test_a_merged_export_knows_the_classes_by_name(config, tmp_path):
    config = config.override({"training.rounds": 1, "data.labels": ["10", "2"]})
    run = train(config, tmp_path / "run")
    export_run(run.folder, tmp_path / "merged", merge=True)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "10", 1: "2"}
    assert accuracy_of(merged, config) == pytest.approx(run.result["eval"]["accuracy"])


def test_a_finished_run_is_evaluated_and_writes_no_text(config, tmp_path):
    run = train(config.override({"evaluation.generate": 1, "evaluation.text_samples": 3}), tmp_path / "run")
    assert not {"samples", "text"} & run.result.keys()
    found = evaluate_run(run.folder, {"evaluation.text_samples": 3})
    assert found["accuracy"] == run.result["eval"]["accuracy"]
    assert found["confusion"] == run.result["confusion"]
    assert found["loss"] == pytest.approx(run.result["eval"]["loss"], rel=1e-3)
    assert "perplexity" not in found  # that of a text, which a classifier does not write
    with pytest.raises(ConfigError, match="tells classes and writes no text"):
        writer_of(run.folder).write(["Some text"])


def decoded(lengths, width=32):
    batch = Ragged(torch.randn(sum(lengths), width), torch.tensor(lengths))
    return Decoded(batch, list(range(len(lengths))), torch.zeros(len(lengths), dtype=torch.bool))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2], "a label of 2; the number of classes is 2"),
        ([0, 70_000], "a label of 70000"),
        ([0], r"no labels for sample ids \[1\]"),
        ([[0, 1, 0], [1]], "3 labels for an activation of 3 tokens"),
    ],
)
def test_classes_that_a_hostile_client_makes_up_are_refused(config, labels, message):
    config = config.override({"data.labels": LABELS})
    engine = LocalEngine(body_of(config), config)
    admission = Admission(config, engine.hidden_size, engine.num_labels)
    sent = {index: np.atleast_1d(np.array(label)) for index, label in enumerate(labels)}
    held = unpack_labels(pack_labels(sent), config.data.max_tokens)
    with pytest.raises(RemoteProtocolError, match=message):
        admission.admit(decoded([3, 1]), held)
    assert len(admission.admit(decoded([3, 1]), {0: np.array([1]), 1: np.array([0])}).labels) == 2


def test_a_client_over_a_network_brings_known_classes_only(config, texts, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.labels is missing: list the classes"):
        load_server_parts(config)
    rows = load_client_rows(config.override({"data.labels": LABELS}))
    assert len(rows.train) == 35 and len(rows.held_out) == 5
    with pytest.raises(DataError, match="unknown class '10'"):
        load_client_rows(config.override({"data.labels": ["2", "11"]}))


def test_parties_without_weights_begin_with_the_same_head(config):
    config = config.override({"data.labels": LABELS, "training.split": False})
    outlined, real = load_server_parts(config).body, body_of(config)
    assert_same_adapter(adapter_state(outlined), adapter_state(real))
    assert "score.weight" in adapter_state(real)


def test_a_served_front_and_tail_are_the_classifiers_own(config, tiny_bert, tmp_path):
    write_front(tiny_bert, 1, torch.float32, tmp_path / "front", 1, LABELS)
    ids, hidden = torch.tensor([[3, 4, 5]]), torch.randn(1, 3, 32)
    fronts = [load_front(folder, 1, labels=LABELS) for folder in (tiny_bert, tmp_path / "front")]
    tails = [load_tail(folder, 1, labels=LABELS) for folder in (tiny_bert, tmp_path / "front")]
    for tail in tails:
        renew_head(tail)
    assert torch.equal(*(front(ids) for front in fronts))
    assert torch.equal(*(tail(hidden) for tail in tails))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data.response": "label"}, DataError, r"texts\.tsv:2: no column 'label'.*found: sentence, kind"),
        ({"data.response": "sentence"}, DataError, r"classes in 40 rows .*data\.response"),
        ({"data.labels": ["2", "3"]}, DataError, r"unknown class '10' .*the run's classes are '2', '3'"),
        ({"data.labels": ["2", " 2"]}, ConfigError, r"expected two classes or more, each once"),
        ({"data.labels": ["2", ""]}, ConfigError, r"expected two classes or more, each once"),
        ({"data.labels": ["2"]}, ConfigError, r"data\.labels = \['2'\]: expected two classes or more"),
        ({"data.labels": LABELS, "data.task": "generation"}, ConfigError, "set that, or leave them out"),
        ({"data.task": "regression"}, ConfigError, r"data\.task = 'regression'"),
    ],
)
def test_what_does_not_fit_is_named(config, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(config.override(changes), tmp_path / "run")


def test_a_family_without_a_classifier_is_named(config, tmp_path, tiny_model):
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"model_type": "cohere"}))
    with pytest.raises(CutError, match="looked for a sequence classifier of type 'cohere'"):
        train(config.override({"model.source": str(tmp_path)}), tmp_path / "run")
