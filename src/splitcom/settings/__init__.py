"""What settings are made of: sections, numbers, TOML trees that extend one another, presets; knows no setting."""

from splitcom.settings.place import Place
from splitcom.settings.types import (
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PartBelowOne,
    PositiveFloat,
    PositiveInt,
    Section,
    canonical,
    without_none,
)

__all__ = [
    "NonNegativeFloat",
    "NonNegativeInt",
    "Part",
    "PartBelowOne",
    "Place",
    "PositiveFloat",
    "PositiveInt",
    "Section",
    "canonical",
    "without_none",
]
