"""The U-shape: equal to an uncut model, closed loops on four flows, and nothing of the labels in any message."""

import io
import json
import struct

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from splitcom.client import ends
from splitcom.errors import AdapterError, ConfigError, CutError
from splitcom.methods import METHODS
from splitcom.methods.compare import compare
from splitcom.methods.run import train
from splitcom.models import load_model, merge_adapter
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.protocol.messages_pb2 import Message
from splitcom.protocol.session import Session
from splitcom.report import flow_table, format_bytes, write_report
from splitcom.report.folder import as_result
from splitcom.report.summary import summarise
from splitcom.simulation.simulation import Simulation

U_SHAPE = {
    "model.tail_blocks": 1,
    "flows.activation_up.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.activation_down.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.gradient_up.codec": "delta > int8(rounding=stochastic)",
    "flows.gradient_down.codec": "delta > int8(rounding=stochastic)",
    "flows.gradient_down.residual": True,
    "lora.dropout": 0.1,
}
FLOWS = ("activation_up", "activation_down", "gradient_up", "gradient_down")
UNCOMPRESSED = {f"flows.{flow}.codec": "none" for flow in FLOWS}
RESIDUAL = {"flows.activation_down.residual": True, "flows.gradient_down.residual": True}


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def messages(monkeypatch):
    """Every message of a run, as received, in both directions."""
    received = []
    receive = Session.receive

    def spy(session, data):
        received.append(data)
        return receive(session, data)

    monkeypatch.setattr(Session, "receive", spy)
    return received


def test_one_uncompressed_client_trains_as_if_nothing_were_split(tiny_config, tmp_path):
    exact = {
        "federation.clients": 1,
        "flows.adapter_up.codec": "none",
        "flows.adapter_down.codec": "none",
        "training.clip_norm": 1e9,  # the norm of the whole is known to nobody where the model is split
        "evaluation.codec": "none",
        **UNCOMPRESSED,
    }
    split = train(tiny_config.override(exact | {"model.tail_blocks": 1}), tmp_path / "split")
    whole = train(tiny_config.override(exact | {"method": "centralised"}), tmp_path / "whole")
    one, other = adapter_of(split), adapter_of(whole)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert split.result["eval"] == whole.result["eval"]
    losses = [[line["loss"] for line in lines_of(run) if line["round"]] for run in (split, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 2


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_a_head_is_trained_by_whoever_has_it_and_exported_with_the_rest(tiny_config, tmp_path, tail_blocks):
    changes = {
        "federation.clients": 1,
        "flows.adapter_up.codec": "none",
        "flows.adapter_down.codec": "none",
        "training.clip_norm": 1e9,
        "lora.train_head": True,
        **UNCOMPRESSED,
    }
    split = train(tiny_config.override(changes | {"model.tail_blocks": tail_blocks}), tmp_path / "split")
    whole = train(tiny_config.override(changes | {"method": "centralised"}), tmp_path / "whole")
    one, other = adapter_of(split), adapter_of(whole)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    name = "base_model.model.lm_head.lora_B.weight"
    assert one[name].abs().max() > 0
    merge_adapter(split.adapter, tiny_config.model.source, tmp_path / "merged")
    head, base = load_model(tmp_path / "merged").lm_head, load_model(tiny_config.model.source).lm_head
    assert not torch.equal(head.weight, base.weight)


def test_a_head_that_is_tied_to_the_embeddings_is_not_trained_and_costs_no_second_copy(tiny_config):
    bundled = tiny_config.override({"model.source": "bundled", "model.tail_blocks": 1})
    parts = load_parts(bundled)
    front, tail = parts.front.model, parts.tail.model
    assert tail.get_output_embeddings().weight is front.get_input_embeddings().weight
    with pytest.raises(AdapterError, match=r"tied to the embeddings .* set lora\.train_head = false"):
        load_parts(bundled.override({"lora.train_head": True}))


@pytest.mark.parametrize("method", ["splitcom", "frozen_front"])
def test_the_books_add_up(tiny_config, tmp_path, method):
    run = train(tiny_config.override({**U_SHAPE, "method": method}), tmp_path / "run")
    result = run.result
    assert result["eval"]["loss"] < result["eval"]["initial_loss"]
    sent, whole = result["bytes"], result["uncompressed_bytes"]
    assert len({whole[flow] for flow in FLOWS}) == 1 and whole["activation_up"] > 0
    assert sent["labels_up"] == 0
    assert sent["total"] == sent["up"] + sent["down"]
    assert sent["total"] == sum(size for flow, size in sent.items() if flow not in ("up", "down", "total"))
    last = lines_of(run)[-1]
    assert set(last["skip_ratio"]) >= set(FLOWS[:2])
    assert last["skip_ratio"]["activation_up"] > 0
    frozen = method == "frozen_front"
    assert (sent["gradient_down"] == 0) == frozen
    assert set(last["threshold"]) == {"activation_up"} if frozen else {"activation_up", "activation_down"}


def test_uncompressed_it_costs_four_flows(tiny_config, tmp_path):
    run = train(tiny_config.override({"method": "splitlora", "model.tail_blocks": 1}), tmp_path / "run")
    assert run.result["bytes"] == run.result["uncompressed_bytes"]
    assert run.result["saving"] == {"up": 0.0, "down": 0.0, "total": 0.0}


def test_uncompressed_a_residual_changes_nothing_but_rounding(tiny_config, tmp_path):
    u_shape = {"model.tail_blocks": 1, "evaluation.codec": "none", **UNCOMPRESSED}
    whole = train(tiny_config.override(u_shape), tmp_path / "whole").result
    residual = train(tiny_config.override(u_shape | RESIDUAL), tmp_path / "rest").result
    assert all(residual["bytes"][flow] == whole["bytes"][flow] for flow in FLOWS)
    assert residual["eval"]["loss"] == pytest.approx(whole["eval"]["loss"], rel=1e-4)


def test_both_forms_are_compared_side_by_side(tiny_config, tmp_path):
    u_shape = {"model.tail_blocks": 1}
    variants = [
        {"name": "uncompressed", "method": "splitlora"},
        {"name": "uncompressed U", "group": "U", "method": "splitlora", "set": u_shape},
        {"name": "splitcom"},
        {"name": "splitcom U", "group": "U", "set": u_shape},
    ]
    config = tiny_config.override({"comparison.variants": variants, "training.rounds": 1})
    results = [run["result"] for run in compare(config, tmp_path)["runs"]]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert [run["result"] for run in compare(config, tmp_path)["runs"]] == results
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    rows = summarise([as_result(result) for result in results])
    assert [row.share.mean for row in rows[:2]] == [1, 1], "each form has its own baseline"
    assert 0 < rows[3].share.mean < 1
    console = Console(width=80, file=io.StringIO())
    console.print(flow_table(results))
    printed = console.file.getvalue()
    for result in results:
        shown = [format_bytes(result["bytes"][flow]) for flow in FLOWS]
        assert all(size in printed for size in shown)
    page = write_report(tmp_path).read_text()
    assert all(flow in page for flow in FLOWS)


def test_a_step_takes_two_exchanges_over_the_link(tiny_config, tmp_path):
    link = {"links.latency_ms": 10.0, "links.step_s": 0.0, "links.server_step_s": 0.0, "training.rounds": 1}
    seconds = [
        train(
            tiny_config.override(link | {"model.tail_blocks": tail_blocks}), tmp_path / f"{tail_blocks}"
        ).result["seconds"]
        for tail_blocks in (0, 1)
    ]
    steps = 3  # of the client with the most batches
    assert seconds[1]["virtual"] - seconds[0]["virtual"] == pytest.approx(steps * 2 * 0.010)


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_split_nothing_have_no_tail(tiny_config, method):
    config = METHODS[method].configure(tiny_config.override({"model.tail_blocks": 1}))
    assert config.model.tail_blocks == int(config.training.split and method != "res_bm")


def test_a_tail_that_does_not_fit_is_refused(tiny_config, tmp_path):
    with pytest.raises(CutError, match=r"model\.cut = 2 with model\.tail_blocks = 2 .* take a cut of 1 to 1"):
        train(tiny_config.override({"model.tail_blocks": 2}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model\.tail_blocks = 1: with training\.split = false"):
        tiny_config.override({"model.tail_blocks": 1, "training.split": False})


IN_STANDARD_FORM = ("activation_up", "gradient_down", "evaluation_up")
IN_U_SHAPE = (*FLOWS, "evaluation_up", "evaluation_down")


@pytest.mark.parametrize(
    ("tail_blocks", "flows"),
    [
        (0, IN_STANDARD_FORM),
        (1, IN_U_SHAPE),
        *(pytest.param(0, [flow], marks=pytest.mark.slow) for flow in IN_STANDARD_FORM),
        *(pytest.param(1, [flow], marks=pytest.mark.slow) for flow in IN_U_SHAPE),
    ],
)
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_lost_reference_is_sent_again_on_every_flow(
    tiny_config, tmp_path, messages, tail_blocks, flows, side
):
    config = tiny_config.override(U_SHAPE | {"model.tail_blocks": tail_blocks})
    simulation = Simulation(config, load_texts(config), load_parts(config), tmp_path)
    for lines in simulation.federation.run():
        if lines[0]["round"] == 1:
            if side == "server":
                channels = simulation.federation.states["client-1"].channels
                stores = {flow: channels[flow].references for flow in flows}
            else:
                stores = dict(simulation.clients["client-1"]._trainer.references())
            for flow in flows:
                stores[flow].clear()
    lost = [message for data in messages if (message := Message.FromString(data)).HasField("reference_lost")]
    received = [flow for flow in flows if (side == "server") == flow.endswith("_up")]
    num_batches = sum(1 if flow.startswith("evaluation") else 2 for flow in received)
    assert len(lost) == num_batches, "once for each batch of the client's, the receiver's only"
    assert simulation.federation.eval_losses[2] < simulation.federation.eval_losses[0]


# What a message could hide labels in: sequences of token ids, and losses, as anybody might write them down.
TOKENS = {
    **{f"{kind}{order}": lambda ids, kind=f"{order}{kind}": np.array(ids, kind).tobytes()
       for kind in ("u2", "i4", "i8", "f2", "f4", "f8") for order in "<>"},
    "varint": lambda ids: b"".join(varint(one) for one in ids),
}  # fmt: skip
WINDOW = 6  # tokens in a row


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def windows(sample, encode):
    ids = [token for token in sample.labels.tolist() if token >= 0]
    return {encode(ids[start : start + WINDOW]) for start in range(len(ids) - WINDOW + 1)}


def planted(samples):
    """Byte strings that tell labels: windows of the label tokens of each sample, in every encoding; and their text."""
    texts = {sample.row.response.encode() for sample in samples}
    return texts.union(*(windows(sample, encode) for sample in samples for encode in TOKENS.values()))


def leaks(messages, needles):
    """Those of the needles, of six bytes or more, that occur anywhere in the messages."""
    haystack = b"".join(messages)
    data = np.frombuffer(haystack, np.uint8).astype(np.uint64)
    heads = sum(data[index : len(data) - 5 + index] << np.uint64(8 * index) for index in range(6))
    by_head = {}
    for needle in needles:
        by_head.setdefault(int.from_bytes(needle[:6], "little"), []).append(needle)
    places = np.flatnonzero(np.isin(heads, np.array(list(by_head), np.uint64)))
    return {
        needle
        for place in places.tolist()
        for needle in by_head[int(heads[place])]
        if haystack.startswith(needle, place)
    }


@pytest.mark.parametrize("codecs", [UNCOMPRESSED, {}], ids=["uncompressed", "default codecs"])
def test_no_byte_of_a_run_tells_labels_or_losses(tiny_config, tmp_path, messages, monkeypatch, codecs):
    losses = []
    losses_through = ends.losses_through

    def spy(*given):
        found = losses_through(*given)
        losses.append(found.losses.detach())
        return found

    monkeypatch.setattr(ends, "losses_through", spy)
    tiny_config = tiny_config.override({"data.samples": 12, "federation.clients": 2})
    texts = load_texts(tiny_config)
    samples = [*texts.train.samples, *texts.held_out.samples]
    needles = planted(samples)
    assert len(needles) > 1000

    train(tiny_config.override({**codecs, "model.tail_blocks": 1}), tmp_path / "u-shape")
    sums = [value for step in losses for value in (float(step.sum()), float(step.mean()))]
    told = {struct.pack(f"{order}d", value) for value in sums for order in "<>"}
    told |= {step[index : index + 2].numpy().tobytes() for step in losses for index in range(len(step) - 1)}
    assert len(losses) > 10 and sum(map(len, messages)) > 100_000
    assert not leaks(messages, needles | told)
    kinds = {Message.FromString(data).WhichOneof("kind") for data in messages}
    assert {"activation_up", "activation_down", "gradient_up", "evaluation_up", "evaluation_down"} <= kinds
    assert not kinds & {"activation", "evaluation_batch"}

    messages.clear()
    train(tiny_config.override(codecs), tmp_path / "standard")
    as_packed = {needle for sample in samples for needle in windows(sample, TOKENS["u2<"])}
    assert leaks(messages, needles) >= as_packed, "the same search finds all labels where they are sent"
