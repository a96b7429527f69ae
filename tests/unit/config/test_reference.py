from collections.abc import Iterator

from pydantic import BaseModel

from splitcom.config import Config


def test_every_setting_says_what_it_means() -> None:
    silent = [key for key, description in _settings(Config) if not description]

    assert not silent, "write a docstring below each of these"


def test_what_a_setting_means_is_in_its_schema_for_editors() -> None:
    training = Config.model_json_schema()["$defs"]["TrainingConfig"]["properties"]

    assert training["lr"]["description"] == "The highest learning rate."


def _settings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.description
