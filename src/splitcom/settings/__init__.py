"""What settings are made of: sections, numbers, TOML trees that extend one another, presets; knows no setting."""

from splitcom.settings.types import (
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PartBelowOne,
    PositiveFloat,
    PositiveInt,
    Section,
    canonical,
)

__all__ = [
    "NonNegativeFloat",
    "NonNegativeInt",
    "Part",
    "PartBelowOne",
    "PositiveFloat",
    "PositiveInt",
    "Section",
    "canonical",
]
