"""What all settings are made of: sections, and numbers and texts that refuse what they cannot be; knows no setting.

Numbers are finite, and neither a bool nor a text is one.
"""

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from splitcom.errors import SpecError

PositiveInt = Annotated[int, Field(gt=0, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, strict=True)]
Part = Annotated[float, Field(gt=0, le=1, strict=True)]
PartBelowOne = Annotated[float, Field(ge=0, lt=1, strict=True)]


class Section(BaseModel):
    """A part of the tree: frozen, without unknown keys, and with finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical(read: Callable[[str], object], text: str) -> str:
    """The text of what `read` makes of one; raises ValueError as it raises SpecError."""
    try:
        return str(read(text))
    except SpecError as error:
        raise ValueError(str(error)) from error
