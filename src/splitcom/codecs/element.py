"""What the text of a codec is made of, and the registry that names it; knows no codec.

A new element is one file with one class under `@register`, imported in the `__init__.py` of its room.
"""

from enum import IntEnum
from typing import ClassVar

from splitcom.language import Call, Registry


class Place(IntEnum):
    """Where an element stands in a text; there is at most one per place, in this order."""

    SKIP = 1
    PREDICT = 2  # from whole references; so also where a stage says that the sender has none
    TRANSFORM = 3
    NUMBER = 4
    ENTROPY = 5


class Element(Call):
    """A stage of a chain, or a parameter of the lattice: a frozen dataclass whose fields are its arguments."""

    place: ClassVar[Place]


ELEMENTS: Registry[Element] = Registry("stage", "a stage")
register = ELEMENTS.register
