"""The settings of comparisons."""

from typing import Any

from pydantic import Field, field_validator

from splitcom.settings import NonNegativeInt, Section, without_none


class VariantConfig(Section):
    """One entry of a comparison: a method with some settings changed."""

    name: str
    group: str = ""  # compared with the splitlora of the same group
    method: str = "splitcom"
    set: dict[str, Any] = Field(default={})

    @field_validator("set")
    @classmethod
    def _as_in_a_file(cls, changes: dict[str, Any]) -> dict[str, Any]:
        """What stands for None in a file also does so here, so that both are equal."""
        return {key: without_none(value) for key, value in changes.items()}


class ComparisonConfig(Section):
    """What `compare` runs."""

    seeds: list[NonNegativeInt] = Field(default=[0])
    variants: list[VariantConfig] = Field(default=[])
