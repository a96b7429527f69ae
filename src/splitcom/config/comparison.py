"""The settings of comparisons."""

from typing import Any

from pydantic import Field

from splitcom.settings import NonNegativeInt, Section


class VariantConfig(Section):
    """One entry of a comparison: a method with some settings changed."""

    name: str
    group: str = ""  # compared with the splitlora of the same group
    method: str = "splitcom"
    set: dict[str, Any] = Field(default={})


class ComparisonConfig(Section):
    """What `compare` runs."""

    seeds: list[NonNegativeInt] = Field(default=[0])
    variants: list[VariantConfig] = Field(default=[])
