"""The settings of comparisons."""

from typing import Any

from pydantic import Field, field_validator

from splitcom.settings import NonNegativeInt, Section, without_none


class VariantConfig(Section):
    """One entry of a comparison: a method with some settings changed."""

    name: str
    """The variant's name in tables and plots."""
    group: str = ""
    """Variants of a group are compared with the splitlora of the same group."""
    method: str | None = None
    """The method that the variant runs; None: that of the configuration."""
    set: dict[str, Any] = Field(default={})
    """What the variant changes, such as `{ "training.lr" = 1e-4 }`."""

    @field_validator("set")
    @classmethod
    def _as_in_a_file(cls, changes: dict[str, Any]) -> dict[str, Any]:
        """What stands for None in a file also does so here, so that both are equal."""
        return {key: without_none(value) for key, value in changes.items()}


class ComparisonConfig(Section):
    """What `compare` runs."""

    seeds: list[NonNegativeInt] = Field(default=[0])
    """Each variant runs once for each of these."""
    variants: list[VariantConfig] = Field(default=[])
    """What `splitcom compare` and `campaign` run, each a `[[comparison.variants]]`."""
