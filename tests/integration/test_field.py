"""The systems of the field in whole runs: plain FedLoRA to the bit where they must be it, else themselves."""

import json
from pathlib import Path

import pytest
import torch

from splitcom.config import Config
from splitcom.errors import ConfigError
from splitcom.flows import AT_CUT
from splitcom.methods.compare import plan
from splitcom.methods.evaluate import evaluate_run
from splitcom.methods.run import configured, train
from splitcom.models import adapter_state, read_adapter
from splitcom.parties.parts import load_parts

from .halting import Stop, StopAt, adapter_of, same
from .parties import Deployment, fork_server, make_authority

ALIKE = {"data.samples": 24, "training.schedule": "constant", "training.warmup": 0.0}  # two batches each
FP16 = {"flows.adapter_up.codec": "fp16", "flows.adapter_down.codec": "fp16"}
FEW = {"federation.variance.max_chunks": 3}
SPLIT = FEW | {"method": "splitcom", "federation.variance.estimate": "linear"}
SPARSE = "delta > golomb(0.3, least=0.1)"
FORMS = {
    "fda_opt": FEW | {"method": "fda_opt"},
    "fda_opt, ams": FEW | {"method": "fda_opt", "federation.variance.estimate": "ams"},
    "chunks, standard form": SPLIT,
    "chunks, u-shape": SPLIT | {"model.tail_blocks": 1},
    "eco_lora": {"method": "eco_lora", "federation.sample": 0.67},
    "segments, standard form": {
        "federation.segments": 2,
        "federation.density_rate": 1.0,
        "client.mixing": 0.5,
        "flows.adapter_up.codec": SPARSE,
        "flows.adapter_up.error_feedback": True,
    },
    "sf_prompt": {"method": "sf_prompt", "client.bypass_epochs": 1},
    "fedsa_lora": {"method": "fedsa_lora"},
    "segments, u-shape": {"federation.segments": 3, "model.tail_blocks": 1, "client.mixing": 0.5},
}


def steps_of(run, client="client-0"):
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return [line["steps"] for line in lines if line["client"] == client and line["round"]]


@pytest.mark.parametrize("plain", [{"method": "fedlora"}, {"method": "splitcom"}], ids=["whole", "split"])
def test_rounds_of_one_chunk_are_plain_ones_to_the_bit(tiny_config, trained, plain):
    config = tiny_config.override(ALIKE | plain)
    one = trained(config)
    chunked = trained(
        config.override({"federation.variance.estimate": "linear", "federation.variance.max_chunks": 1})
    )
    assert same(adapter_of(one), adapter_of(chunked))
    assert one.result["eval"] == chunked.result["eval"]
    assert chunked.result["bytes"]["sketch_up"] == 3 * 2 * 8  # of each client after each round's chunk


def test_one_client_has_nobody_to_be_apart_from_and_averages_after_each_chunk(tiny_config, trained):
    alone = tiny_config.override(ALIKE | {"federation.clients": 1, "data.samples": 8})
    plain, chunked = (
        trained(alone.override({"method": "fedlora"})),
        trained(alone.override({"method": "fda_opt"})),
    )
    assert same(adapter_of(plain), adapter_of(chunked))


@pytest.mark.parametrize(("estimate", "size"), [("naive", 4), ("linear", 8), ("ams", 6004)])
def test_clients_train_equal_steps_until_they_are_apart_and_all_they_send_is_counted(
    tiny_config, trained, estimate, size
):
    run = trained(tiny_config.override({"method": "fda_opt", "federation.variance.estimate": estimate}))
    steps = steps_of(run)
    assert steps == steps_of(run, "client-1") == steps_of(run, "client-2")  # the others have fewer batches
    chunks = [number / 3 for number in steps]
    assert chunks[0] == 1 < chunks[1] <= 10 and all(number.is_integer() for number in chunks)
    assert run.result["bytes"]["sketch_up"] == 3 * sum(chunks) * size
    sums = sum(run.result["bytes"][flow] for flow in ("adapter_up", "sketch_up"))
    assert sums < run.result["bytes"]["up"]
    assert run.result["eval"]["loss"] < run.result["eval"]["initial_loss"]


def test_without_segments_and_sparsity_eco_lora_is_fedlora_to_the_bit(tiny_config, trained):
    whole = tiny_config.override({"method": "fedlora"} | FP16)
    plain = trained(whole)
    still = {"client.mixing": 1e9, "federation.density_rate": 3.0, "flows.adapter_up.codec_a": "fp16"}
    assert same(adapter_of(plain), adapter_of(trained(whole.override(still))))


def test_segments_send_their_part_and_sparsity_what_theory_says(tiny_config, trained):
    plain, segments, both = (
        trained(tiny_config.override({"method": "fedlora", "training.rounds": 3} | FP16 | changes))
        for changes in (
            {},
            {"federation.segments": 3},
            {"federation.segments": 3, "flows.adapter_up.codec": "delta > golomb(0.5)"},
        )
    )
    whole = plain.result["bytes"]["adapter_up"]
    assert segments.result["bytes"]["adapter_up"] == pytest.approx(whole / 3, rel=0.05)
    # half of the numbers at 2 bytes and 2 bits each, of 2 bytes each
    assert both.result["bytes"]["adapter_up"] == pytest.approx(whole / 3 * 0.5625, rel=0.1)
    for run in (segments, both):
        assert run.result["uncompressed_bytes"]["adapter_up"] == whole
        assert run.result["eval"]["loss"] < run.result["eval"]["initial_loss"]


def test_with_a_as_it_was_drawn_b_alone_is_sent_and_learns(tiny_config, trained):
    whole = trained(tiny_config.override({"method": "fedlora"} | FP16))
    b_alone = trained(tiny_config.override({"method": "ffa_lora"} | FP16))
    assert b_alone.result["eval"]["loss"] < b_alone.result["eval"]["initial_loss"]
    config = Config.load(b_alone.folder / "config.toml")
    assert configured(config) == config  # so that a saved run can be run again
    drawn = {name: tensor for part in load_parts(config).all for name, tensor in adapter_state(part).items()}
    found = adapter_of(b_alone)
    of_a = {name: tensor for name, tensor in found.items() if ".lora_A." in name}
    assert len(of_a) == len(found) / 2
    for name, tensor in of_a.items():
        assert torch.equal(tensor, drawn[name.removeprefix("base_model.model.")]), name
    assert not any(".lora_B." in name and not tensor.any() for name, tensor in found.items())
    sizes = [sum(t.numel() for n, t in drawn.items() if kind in n) for kind in (".lora_B.", ".lora_")]
    sent = {"adapter_up": 1, "adapter_down": 2 / 3}  # what all draw alike is not sent to them
    for flow, share in sent.items():
        part = b_alone.result["bytes"][flow] / whole.result["bytes"][flow]
        assert part == pytest.approx(share * sizes[0] / sizes[1], rel=0.1), flow


def test_the_density_falls_with_the_loss_and_b_has_one_of_its_own(tiny_config, trained):
    changes = {
        "method": "eco_lora",
        "training.rounds": 4,
        "federation.segments": 1,
        "federation.density_rate": 9.0,
    }
    falling = trained(tiny_config.override(changes | {"federation.segments": 2}))
    flat = trained(
        tiny_config.override(changes | {"federation.segments": 2, "federation.density_rate": 1e-9})
    )

    def sent(run):
        lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
        found = [0] * 5
        for line in lines:
            found[line["round"]] += line["bytes"]["adapter_up"]
        return found

    assert sent(falling)[1] == sent(flat)[1]  # of the first round there is no loss to compare with
    assert sent(falling)[4] < 0.95 * sent(flat)[4]


def test_sf_prompt_sends_the_hardest_half_and_leaves_a_prompt_beside_the_adapter(tiny_config, trained):
    half = trained(tiny_config.override(FORMS["sf_prompt"] | {"training.rounds": 3}))
    whole = trained(tiny_config.override(FORMS["sf_prompt"] | {"client.keep": 1.0, "training.rounds": 3}))
    for flow in AT_CUT:  # 5, 4 and 4 of 9, 8 and 8 samples, and the longest are not always among them
        assert 0.35 < half.result["bytes"][flow] / whole.result["bytes"][flow] < 0.7, flow
    config = Config.load(half.folder / "config.toml")
    assert configured(config) == config
    blocks = {name.split(".layers.")[1].split(".")[0] for name in adapter_of(half)}
    assert blocks == {"3"}  # of the tail alone
    prompt = read_adapter(half.adapter)["soft_prompt"]
    drawn = adapter_state(load_parts(config).front)
    assert drawn.keys() == {"soft_prompt"} and prompt.shape == drawn["soft_prompt"].shape == (5, 32)
    assert not torch.equal(prompt, drawn["soft_prompt"])
    for run in (half, whole):
        assert run.result["eval"]["loss"] < run.result["eval"]["initial_loss"]
    assert evaluate_run(half.folder)["loss"] == pytest.approx(half.result["eval"]["loss"], rel=1e-4)


def test_with_b_of_each_clients_own_a_alone_is_sent(tiny_config, trained):
    whole = trained(tiny_config.override({"method": "fedlora"}))
    own = trained(tiny_config.override(FORMS["fedsa_lora"]))
    assert own.result["eval"]["loss"] < own.result["eval"]["initial_loss"]
    found = adapter_of(own)
    assert not any(tensor.any() for name, tensor in found.items() if ".lora_B." in name)
    sizes = [sum(t.numel() for n, t in found.items() if kind in n) for kind in (".lora_A.", ".lora_")]
    part = own.result["bytes"]["adapter_up"] / whole.result["bytes"]["adapter_up"]
    assert part == pytest.approx(sizes[0] / sizes[1], rel=0.2)
    assert any("no B" in warning for warning in own.result["warnings"])


@pytest.mark.parametrize("method", ["split_lite", "aq_sgd"])
def test_first_visits_are_whole_and_later_ones_small(tiny_config, trained, method):
    config = tiny_config.override({"method": method, "lora.rank": 1})
    lines = map(json.loads, (trained(config).folder / "metrics.jsonl").read_text().splitlines())
    shares = {
        line["round"]: line["bytes"]["activation_up"] / line["uncompressed_bytes"]["activation_up"]
        for line in lines
        if line["round"]
    }
    assert shares[1] == pytest.approx(1.0, abs=0.01) and shares[2] < 0.4


def test_error_feedback_sends_in_the_end_what_was_left_out():
    from splitcom.config.flows import AdapterFlowConfig
    from splitcom.training.adapters import AdapterSender

    sender = AdapterSender(AdapterFlowConfig(codec="delta > golomb(0.25)", error_feedback=True))
    base = {"x.lora_A.weight": torch.zeros(64)}
    change = {"x.lora_A.weight": torch.arange(1.0, 65.0)}
    arrived = torch.zeros(64)
    for _ in range(12):
        arrived += sender.encode(change, base, 0)[1]["x.lora_A.weight"]
    assert torch.equal(arrived + sender.residual["x.lora_A.weight"], 12 * change["x.lora_A.weight"])
    assert (arrived > 0).sum() > 48  # a quarter each time, and not always the same


ALSO_RESUMED = ("fda_opt, ams", "chunks, u-shape", "segments, u-shape")


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[pytest.mark.slow] if form in ALSO_RESUMED else []) for form in FORMS]
)
def test_a_resumed_run_ends_with_the_same_bits_and_bytes(tiny_config, trained, tmp_path, form):
    config = tiny_config.override(FORMS[form] | {"training.rounds": 3})
    straight = trained(config)
    at = (3, 2 if configured(config).training.split else 1)
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt(*at)])
    resumed = train(config, tmp_path / "halted", resume=True)
    assert same(adapter_of(straight), adapter_of(resumed))
    assert straight.result["eval"] == resumed.result["eval"]
    for flow in ("adapter_up", "adapter_down", "sketch_up"):
        assert straight.result["bytes"][flow] == resumed.result["bytes"][flow]
    assert straight.result["eval"]["loss"] < straight.result["eval"]["initial_loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "fda_opt", "federation.segments": 2}, "the variance is of whole adapters"),
        (SPLIT | {"federation.deadline_s": 1.0}, "all must be waited for"),
        (SPLIT | {"training.max_steps": 50}, "nobody knows beforehand how many steps"),
        ({"federation.segments": 2, "federation.scheduling": "asynchronous"}, "shared out over the clients"),
        (
            {"federation.segments": 2, "federation.aggregator": "krum(0.2)", "federation.clients": 9},
            "compares whole updates",
        ),
        ({"client.keep": 0.5}, "for the U-shape"),
        ({"client.bypass_epochs": 2}, "for the U-shape"),
        ({"lora.train_body": False}, "for the U-shape"),
        (
            {"lora.train_body": False, "lora.train_front": False, "model.tail_blocks": 1},
            "nothing before the tail",
        ),
        ({"method": "fedsa_lora", "training.keep": "best"}, "clients' last B"),
        ({"lora.prompt_tokens": 255}, "leaves no room for text"),
        ({"client.clip_update": 1.0, "flows.adapter_up.error_feedback": True}, "beyond the bound"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(changes, message):
    with pytest.raises(ConfigError, match=message):
        configured(Config().override(changes))


def test_a_variant_without_a_method_runs_that_of_the_file(tmp_path):
    variants = [{"name": "plain"}, {"name": "segments", "set": {"federation.segments": 2}}]
    variants += [{"name": "split", "method": "splitlora"}]
    for method in ("fedlora", "splitcom"):
        planned = plan(Config().override({"method": method, "comparison.variants": variants}), tmp_path)
        assert [run.config.method for run in planned] == [method, method, "splitlora"]


@pytest.mark.parametrize(
    "form",
    ["fda_opt", "eco_lora", "sf_prompt", pytest.param("chunks, standard form", marks=pytest.mark.slow)],
)
def test_over_a_network_the_bits_are_those_of_one_process(tiny_config, trained, tmp_path, form):
    config = tiny_config.override(FORMS[form])
    expected = trained(config)
    forks, authority = fork_server(), make_authority(tmp_path / "authority")
    network = Deployment(forks, authority, config, tmp_path).start_server()
    whole = not configured(config).training.split
    options = ("--model", config.model.source) if whole else ()
    parties = [client.start() for client in network.clients(*options)]
    for party in (*parties, network.server):
        party.end()
    result = network.assert_same_run(expected)
    for flow in ("adapter_up", "adapter_down", "sketch_up"):
        assert result["bytes"][flow] == expected.result["bytes"][flow]
    assert Path(network.out, "report.html").exists()
