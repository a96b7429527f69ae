"""Configuration: round trip, and errors that help."""

import re
from pathlib import Path
from typing import get_args

import pytest

from splitcom.config import Config
from splitcom.config.reference import reference
from splitcom.errors import ConfigError
from splitcom.flows import AT_CUT, FLOWS
from splitcom.settings.presets import AUTO, PRESETS
from splitcom.settings.tree import parse_assignment


def test_a_saved_configuration_reads_back_equal(tmp_path):
    config = Config(seed=4).override({"clients.client-1.link": {"up_mbps": 2.0}, "data.samples": 30})
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert Config.load(path) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[training]\nbatchsize = 3", r"training.batchsize: unknown key; did you mean 'batch_size'\?"),
        ("[trainin]\nlr = 1.0", r"trainin: unknown key; did you mean 'training'\?"),
        ("[flows.activation_up]\ncodek = 'none'", r"flows.activation_up.codek: .* 'codec'\?"),
        ("[training]\nlr = 'fast'", r"training.lr = 'fast': must be a number"),
        ("[training]\nrounds = 0", r"training.rounds = 0: must be above 0"),
        ("[model]\nsource = ''", r"model.source = '': .*at least 1 character"),
        ("[flows.activation_up]\ncodec = 'tempral(0.9)'", r"(?s)flows.activation_up.codec.*temporal"),
        (
            "[flows.activation_up]\ncodec = 'int4'\nresidual = true",
            r"toml: flows.activation_up.residual = true: .* activation_down",
        ),
        (
            "model.tail_blocks = 1\n[flows]\nactivation_up.codec = 'temporal(0.9) > projection(8)'\n"
            "activation_down = { codec = 'int4', residual = true }",
            r"activation_down.residual = true: it needs what has been sent of activation_up at both ends",
        ),
        ("[flows.activation_up]\ncodec = 'int4(groups=8)'", r"(?s)flows.activation_up.codec.*group"),
        (
            "[clients.hospital]\nbatch_size = 1",
            r"toml: clients.hospital: no such client; there are client-0, client-1, client-2; over a network name all",
        ),
        (
            "[[clients.groups]]\nnames = ['phone-*']",
            r"toml: clients.groups: no client is called 'phone-\*'; there are client-0",
        ),
        (
            "[[clients.groups]]\nnames = ['client-1']\n[[clients.groups]]\nnames = ['client-*']",
            r"clients.groups: client-1 is in two groups, by 'client-\*' and 'client-1'; take it out",
        ),
        (
            "[clients.client-0]\nbatchsize = 1",
            r"clients.client-0.batchsize: unknown key; did you mean 'batch_size'",
        ),
        ("[clients.client-0]\nbatch_size = 0", r"clients.client-0.batch_size = 0: .*above 0"),
        (
            "[links.clients.client-0]\nup_mbps = 1.0",
            r"links.clients is no setting any more: write .* into \[clients.NAME.link\]",
        ),
        (
            "[federation]\nscheduling = 'asynchronous'\ndeadline_s = 3.0",
            "federation.*deadline_s and over_select need scheduling = 'synchronous'",
        ),
        (
            "[federation]\nscheduling = 'asynchronous'\n[federation.asynchronous]\nbuffer = 4",
            "buffer = 4: a round has 3 updates.*lower it",
        ),
        (
            "[federation]\nover_select = 0.5",
            "over_select = 0.5: all 3 clients are sampled already; lower sample",
        ),
        (
            "[model]\ntail_blocks = 1\n[federation]\ndeadline_s = 2.0",
            "tail_blocks = 1: in the U-shape each step waits .*leave out federation.deadline_s",
        ),
        ("[federation.asynchronous]\nmixing = 0.0", r"asynchronous.mixing = 0.0: must be above 0"),
        ("[training\n", "not valid TOML"),
    ],
)
def test_wrong_settings_are_named_with_a_remedy(tmp_path, text, expected):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as caught:
        Config.load(path)
    assert str(caught.value).startswith(str(path))


def test_what_is_given_to_change_a_configuration_stays_as_it_is():
    changes = {"clients.client-0": {"cut": 1}, "clients.client-0.cut": 2}
    assert Config().override(changes).of_client("client-0").model.cut == 2
    assert changes["clients.client-0"] == {"cut": 1}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.toml: no such file"):
        Config.load(tmp_path / "absent.toml")


def test_overrides_win_and_are_checked(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[training]\nrounds = 3")
    assert Config.load(path, {"training.rounds": 4}).training.rounds == 4
    with pytest.raises(ConfigError, match=r"training\.round: unknown key"):
        Config.load(path, {"training.round": 4})


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=3", 3), ("a.b=0.5", 0.5), ("a.b=true", True), ("a.b=none", "none"), ("a.b=[1]", [1])],
)
def test_assignments_are_toml_or_text(text, value):
    assert parse_assignment(text) == ("a.b", value)


def test_an_assignment_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_assignment("training.rounds")


def test_what_was_given_beside_a_file_is_not_said_to_be_in_it(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[training]\nlr = 0.0\n")
    with pytest.raises(ConfigError) as caught:
        Config.load(path, {"training.rounds": "zero", "trainin.lr": 1, "data.sourc": "x"})
    lines = str(caught.value).splitlines()
    assert {line.split(" ")[0] for line in lines} == {"--set", f"{path}:"}
    assert next(line for line in lines if "lr = 0.0" in line).startswith(f"{path}: training.lr")
    assert sum(line.startswith("--set ") for line in lines) == 3


def test_a_flow_of_which_something_else_is_set_keeps_its_default_codec():
    flows = Config.from_toml("[flows.activation_down]\nresidual = true").flows
    assert flows.activation_down.residual
    assert flows.activation_down.codec == Config().flows.activation_down.codec


def test_a_preset_gives_the_codecs_that_are_not_given(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('preset = "balanced"\n[flows]\ngradient_down = { codec = "int8" }')
    read = Config.load(path)
    assert read.flows.gradient_down.codec == "int8"
    for flow in (read.flows.activation_up, read.flows.activation_down, read.flows.gradient_up):
        assert flow.codec.startswith("predict")
    assert Config.from_toml(read.to_toml()) == read
    assert Config.load(path, {"preset": "quality"}).flows.gradient_down.codec.endswith("uniform(2.5) > range")
    changed = Config().override({"flows.gradient_down.codec": "int4", "preset": "quality"})
    assert changed.flows.gradient_down.codec == "int4"
    assert changed.flows.activation_up == Config.from_toml('preset = "quality"').flows.activation_up


def test_without_codecs_flows_are_those_of_the_preset_quality():
    assert Config().flows == Config.from_toml('preset = "quality"').flows
    assert Config().flows.activation_down.residual and Config().steering.keys() == {"activation_up"}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_written_in_canonical_form(name):
    """A codec that is changed is known by its text to have been the preset's."""
    read = Config.from_toml(f"preset = '{name}'").flows
    for flow, tree in PRESETS[name].items():
        found = getattr(read, flow).model_dump()
        assert {key: found[key] for key in tree} == tree


@pytest.mark.parametrize("below", ["", 'preset = "quality"\n', 'preset = "balanced"\n'])
def test_who_changes_a_codec_lets_go_what_came_with_it(below, tmp_path):
    (tmp_path / "base.toml").write_text(below)
    (tmp_path / "run.toml").write_text(
        'extends = "base.toml"\n[flows]\nactivation_up = { codec = "int8" }\nactivation_down = { codec = "int4" }'
    )
    changes = {"flows.activation_up.codec": "int8", "flows.activation_down.codec": "int4"}
    for config in (
        Config.load(tmp_path / "run.toml"),
        Config.load(tmp_path / "base.toml", changes),
        Config.load(tmp_path / "base.toml").override(changes),
    ):
        assert config.flows.activation_up.model_dump() == {
            "codec": "int8",
            "controller": None,
            "residual": False,
        }
        assert not config.flows.activation_down.residual
        assert config.flows.gradient_down == Config.load(tmp_path / "base.toml").flows.gradient_down


def test_what_was_set_by_hand_stays_with_another_codec():
    own = {"flows.activation_up.controller": "freeze(0.5, 0.25)", "flows.gradient_down.residual": False}
    finer = {"flows.activation_up.codec": "klt > uniform(0.5) > range", "flows.gradient_down.codec": "int8"}
    config = Config().override(own).override(finer)
    assert config.flows.activation_up.controller == "freeze(0.5, 0.25)"
    together = Config().override({**finer, "flows.activation_up.controller": "freeze(0.3, 0.15)"})
    assert together.flows.activation_up.controller == "freeze(0.3, 0.15)"
    gated = {"flows.activation_up.codec": "temporal(0.9)", "flows.activation_up.controller": "fixed(0.9)"}
    regated = Config().override(gated).override({"flows.activation_up.codec": "temporal(0.8)"})
    assert regated.flows.activation_up.controller == "fixed(0.9)"


def test_a_presets_controller_comes_and_goes_with_its_codec():
    preset = Config.from_toml('preset = "balanced"').flows
    assert preset.activation_up.controller == "freeze(0.45, 0.225)"
    own = Config.from_toml(
        'preset = "balanced"\n[flows.activation_up]\ncodec = "temporal(0.98) > int8"'
    ).flows
    assert own.activation_up.controller is None and own.gradient_down == preset.gradient_down
    fixed = Config.from_toml('preset = "balanced"\n[flows.activation_up]\ncontroller = "fixed(1.0)"').flows
    assert (fixed.activation_up.codec, fixed.activation_up.controller) == (
        preset.activation_up.codec,
        "fixed(1.0)",
    )

    gated = {
        "flows.gradient_down.codec": "temporal(0.9) > int8",
        "flows.gradient_down.controller": "fixed(0.9)",
    }
    assert Config().override(gated).override({"preset": "balanced"}).flows == preset
    changed = Config().override({"preset": "balanced", "flows.activation_up.codec": "int8"}).flows
    assert changed.activation_up.controller is None and changed.activation_up.codec == "int8"
    assert Config().override({"preset": "balanced", "model.tail_blocks": 1}).steering.keys() == {
        "activation_up"
    }


def test_a_preset_is_kept_with_what_it_stands_for(tmp_path, caplog):
    own = {"flows": {"gradient_down": {"codec": "int8"}}}
    config = Config(preset="balanced", **own)
    assert config.flows.activation_up == Config.from_toml('preset = "balanced"').flows.activation_up
    assert config.flows.gradient_down.codec == "int8"
    assert config == Config().override({"preset": "balanced", "flows.gradient_down.codec": "int8"})
    assert Config.from_toml(config.to_toml()) == config and config.preset == "balanced"
    without = Config(preset="balanced", flows={"activation_up": {"controller": None}})
    assert without.flows.activation_up.controller is None and not caplog.records
    (tmp_path / "base.toml").write_text('preset = "balanced"')
    (tmp_path / "run.toml").write_text('extends = "base.toml"\npreset = "auto"')
    assert Config.load(tmp_path / "base.toml").preset == "balanced"
    assert Config.load(tmp_path / "run.toml") == Config()
    assert get_args(Config.model_fields["preset"].annotation) == (AUTO, *PRESETS)


@pytest.mark.parametrize("name", ["'small'", "['quality']"])
def test_an_unknown_preset_is_refused(name):
    with pytest.raises(ConfigError, match=r"there are auto, fine, quality, balanced, paper$"):
        Config.from_toml(f"preset = {name}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregator": "medain"}, "no aggregator 'medain'; did you mean 'median'"),
        (
            {"aggregator": "trimmed_mean(0.2)"},
            "needs 5 updates or more to be better than a mean, and 3 are averaged",
        ),
        ({"aggregator": "median", "clients": 4, "sample": 0.5}, "raise clients and sample"),
        (
            {"aggregator": "median", "scheduling": "asynchronous"},
            "needs 3 updates or more to be better than a mean, and 1 are averaged; raise asynchronous.buffer",
        ),
    ],
)
def test_an_aggregator_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Config().override({f"federation.{key}": value for key, value in changes.items()})


def test_the_text_of_an_aggregator_is_kept_in_its_canonical_form():
    config = Config().override({"federation.aggregator": "fedavgm( momentum = 0.5,lr=1 )"})
    assert config.federation.aggregator == "fedavgm(momentum=0.5)"


def test_flows_with_a_codec_have_a_section_each():
    adapters = [name for name, flow in FLOWS.items() if flow.content == "adapter"]
    assert list(type(Config().flows).model_fields) == [*AT_CUT, *adapters]
    assert all(Config().flows.codec(name) == FLOWS[name].codec for name in adapters)


@pytest.mark.parametrize("written", ["0", "0.0", "false"])
def test_clipping_is_switched_off_and_stays_off(written):
    config = Config.from_toml(f"[training]\nclip_norm = {written}")
    assert config.training.clip_norm is None
    assert Config.from_toml(config.to_toml()) == config


def test_what_a_file_extends_can_be_taken_back(tmp_path):
    (tmp_path / "base.toml").write_text(
        "[data]\nsamples = 40\n[flows.activation_up]\ncontroller = 'fixed(0.9)'"
    )
    (tmp_path / "run.toml").write_text(
        "extends = 'base.toml'\n[data]\nsamples = false\n[flows.activation_up]\ncontroller = false"
    )
    config = Config.load(tmp_path / "run.toml")
    assert config.data.samples is None and config.flows.activation_up.controller is None


def test_a_setting_that_may_be_none_says_how():
    with pytest.raises(ConfigError, match=r"federation.deadline_s = 0: .*false stands for none"):
        Config.from_toml("[federation]\ndeadline_s = 0")
    with pytest.raises(ConfigError, match=r"lora.targets = '': .*at least 1 character"):
        Config.from_toml("[lora]\ntargets = ''")
    with pytest.raises(ConfigError, match=r"lora.targets = \[\]: .*at least 1 item"):
        Config.from_toml("[lora]\ntargets = []")


def test_paths_in_a_file_are_relative_to_it_and_others_to_the_working_directory(tmp_path, monkeypatch):
    for folder in ("here", "base", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.csv").touch()
        (tmp_path / folder / "m").mkdir()
    (tmp_path / "base/base.toml").write_text(
        "[model]\nsource = 'm'\n[data]\nheld_out = '../base/rows.csv'\n[control]\nstart_from = './gone'"
    )
    (tmp_path / "here/run.toml").write_text(
        "extends = '../base/base.toml'\n[data]\nsource = 'rows.csv'\n"
        "[[comparison.variants]]\nname = 'one'\nset = { 'model.source' = 'm', data = { source = 'generated' } }"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = Config.load("../here/run.toml")
    assert config.model.source == str(tmp_path / "elsewhere/../here/../base/m")
    assert config.data.source == str(tmp_path / "elsewhere/../here/rows.csv")
    assert config.data.held_out is not None and config.data.held_out.endswith("base/../base/rows.csv")
    assert config.control.start_from is not None and config.control.start_from.endswith("base/gone")
    assert config.comparison.variants[0].set["model.source"].endswith("here/m")
    assert config.comparison.variants[0].set["data"] == {"source": "generated"}
    assert Config.load("../here/run.toml", {"model.source": "m"}).model.source == str(
        tmp_path / "elsewhere/m"
    )
    monkeypatch.chdir(tmp_path)
    assert Config.from_toml(config.to_toml()) == config


def test_words_and_names_on_a_hub_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    text = "[model]\nsource = '{}'\n[data]\nsource = 'team/rows:small[train]'"
    for name in ("bundled", "team/model-1.5"):
        (tmp_path / "run.toml").write_text(text.format(name))
        config = Config.load("run.toml")
        assert (config.model.source, config.data.source) == (name, "team/rows:small[train]")
    (tmp_path / "run.toml").write_text(text.format("~/m"))
    assert Config.load("run.toml").model.source == str(Path.home() / "m")


def test_a_path_that_is_only_in_the_working_directory_is_refused(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/run.toml").write_text("[data]\nsource = 'rows.csv'")
    (tmp_path / "rows.csv").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"not beside this file, .* but in the working directory; write '/"):
        Config.load("conf/run.toml")


def test_a_controller_for_thresholds_is_not_taken_for_one_of_a_presets_steps(caplog):
    flow = 'preset = "balanced"\n[flows.activation_up]\ncontroller = "{}"'
    with pytest.raises(
        ConfigError,
        match=r"careful at 0.995 and saves at 0.95, which is right for thresholds.*; swap the two",
    ):
        Config.from_toml(flow.format("bangbang(0.95, 0.995)"))
    caplog.clear()
    Config.from_toml(flow.format("bangbang(1.5, 0.75)"))
    assert "flows.activation_up.controller sets the step of the codec" in caplog.text
    caplog.clear()
    Config.from_toml(flow.format("fixed(0.98)") + '\ncodec = "temporal(0.9) > int8"')
    Config.from_toml('preset = "balanced"\n[flows.activation_up]\ncontroller = false')
    assert not caplog.text


def test_a_split_of_a_folder_is_beside_its_file_too(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "run.toml").write_text('[data]\nsource = "rows"\nheld_out = "rows[test]"\n')
    data = Config.load(tmp_path / "run.toml").data
    assert (data.source, data.held_out) == (f"{tmp_path}/rows", f"{tmp_path}/rows[test]")
    assert Config().override({"data.source": "team/name:en[test]"}).data.source == "team/name:en[test]"


def test_a_run_folder_of_0_1_is_read_if_its_adapters_travelled_as_they_do_by_default():
    assert Config.from_toml('[federation]\nadapter_dtype = "float16"', "config.toml") == Config()
    with pytest.raises(
        ConfigError, match=r"adapter_dtype is no setting any more: set flows\.adapter_up\.codec"
    ):
        Config.from_toml('[federation]\nadapter_dtype = "float32"', "config.toml")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"federation.min_clients": 9}, r"federation\.min_clients = 9: there are 3 clients"),
        ({"references.store": "file"}, r"references\.limit_mb is needed"),
        ({"training.max_steps": 2}, r"training\.max_steps = 2: training\.rounds = 5 share these steps"),
        ({"federation.names": ["a"]}, r"federation\.names has 1 different names"),
    ],
)
def test_what_does_not_fit_within_a_section_names_the_field_alone(changes, expected):
    with pytest.raises(ConfigError, match=rf"^override: {expected}") as caught:
        Config().override(changes)
    assert "{" not in str(caught.value)


@pytest.mark.parametrize("number", [1_000_001, 10**30])
def test_more_clients_than_any_machine_could_list_are_refused_at_once(number):
    with pytest.raises(ConfigError, match=r"federation\.clients.*must be at most"):
        Config().override({"federation.clients": number})


def test_integers_are_no_larger_than_what_counts_them():
    with pytest.raises(ConfigError, match=r"data\.max_tokens"):
        Config().override({"data.max_tokens": 2**63})


@pytest.mark.parametrize("value", [1e308, 1e-320])
def test_no_setting_takes_a_number_that_nothing_can_be_computed_with(value):
    for group in reference():
        for row in group.settings:
            if row.kind.startswith("number"):
                with pytest.raises(ConfigError, match=r"must be|numbers here are"):
                    Config().override({row.key: value})


@pytest.mark.parametrize("text", ["seed = " + "9" * 6000, "a = " + "[" * 5000 + "]" * 5000, "seed = 1\0"])
def test_what_no_reader_takes_is_said_to_be_no_toml(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.toml: not valid TOML"):
        Config.load(path)


def test_a_link_that_leads_to_itself_cannot_be_read(tmp_path):
    (tmp_path / "run.toml").symlink_to(tmp_path / "run.toml")
    with pytest.raises(ConfigError, match=r"run\.toml: cannot be read: .*symbolic links"):
        Config.load(tmp_path / "run.toml")
