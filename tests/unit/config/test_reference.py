from splitcom.config import Config
from splitcom.config.reference import reference
from splitcom.methods import METHODS


def test_every_setting_says_what_it_means() -> None:
    silent = [setting.key for group in reference() for setting in group.settings if not setting.meaning]

    assert not silent, "write a docstring below each of these"


def test_a_setting_has_its_bounds_and_its_default_as_in_a_file() -> None:
    (training,) = reference("training.clip_norm")
    (clip_norm,) = training.settings

    assert training.key == "training"
    assert (clip_norm.kind, clip_norm.default) == ("number at least 0 or false", "1.0")
    assert "None" not in clip_norm.meaning
    (top,) = reference("seed")
    assert top.settings[0].kind == "whole number at least 0"  # nobody reaches what a machine can count to


def test_each_flow_has_its_own_default() -> None:
    defaults = {group.key: group.settings[0].default for group in reference("flows")}

    assert defaults["flows.adapter_up"] == f'"{Config().flows.codec("adapter_up")}"'
    assert defaults["flows.gradient_down"] == f'"{Config().flows.codec("gradient_down")}"'


def test_what_a_setting_means_is_in_its_schema_for_editors() -> None:
    training = Config.model_json_schema()["$defs"]["TrainingConfig"]["properties"]

    assert training["lr"]["description"] == "The highest learning rate."


def test_the_reference_names_all_methods() -> None:
    (top,) = reference("method")

    assert all(method in top.settings[0].meaning for method in METHODS)
