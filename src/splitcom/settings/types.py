"""What all settings are made of: sections, and numbers and texts that refuse what they cannot be; knows no setting.

Numbers are finite, of a size that can be computed with, and neither a bool nor a text is one. TOML has no null: `false`
stands for None, and so no setting may be both a bool and None.
"""

from collections.abc import Callable
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from splitcom.amount import COMPUTABLE
from splitcom.errors import SpecError

MOST = 2**63 - 1  # what tensors and messages count with
PositiveInt = Annotated[int, Field(gt=0, le=MOST, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, strict=True)]
Part = Annotated[float, Field(gt=0, le=1, strict=True)]
PartBelowOne = Annotated[float, Field(ge=0, lt=1, strict=True)]

_SIZES = {  # by unit
    "s": (1e-9, 1e9),  # threads refuse to wait for three centuries
    "ms": (1e-9, 1e12),
    "mb": (1e-9, 1e12),
    "mbps": (1e-6, 1e9),
}


class Section(BaseModel):
    """A part of the tree: frozen, no unknown keys, finite numbers only; below each setting stands what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _size(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, float) and value:
            unit = (info.field_name or "").rpartition("_")[2]
            least, most = _SIZES.get(unit, COMPUTABLE)
            if not least <= abs(value) <= most:
                raise ValueError(f"numbers here are 0 or from {least:g} to {most:g}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _false_is_none(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        optional = {name for name, field in cls.model_fields.items() if is_optional(field)}
        return {key: None if value is False and key in optional else value for key, value in given.items()}


def other_keys_of(section: type[BaseModel]) -> type[BaseModel] | None:
    """What a section holds under keys that it does not know beforehand, such as names; None if it refuses them."""
    given = section.__annotations__.get("__pydantic_extra__")
    return next((kind for kind in get_args(given) if kind is not str), None)


def is_optional(field: FieldInfo) -> bool:
    """Whether a setting may be None."""
    return type(None) in get_args(field.annotation)


def without_none(tree: Any) -> Any:
    """A copy of a tree that TOML can hold.

    >>> without_none({"a": None, "b": [{"c": None}]})
    {'a': False, 'b': [{'c': False}]}
    """
    if isinstance(tree, dict):
        return {key: without_none(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [without_none(value) for value in tree]
    return False if tree is None else tree


def canonical(read: Callable[[str], object], text: str) -> str:
    """The text of what `read` makes of one; raises ValueError as it raises SpecError."""
    try:
        return str(read(text))
    except SpecError as error:
        raise ValueError(str(error)) from error
