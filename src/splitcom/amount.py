"""Numbers that people write and read: which can be computed with, and with their nouns in messages."""

COMPUTABLE = 1e-36, 1e36
"""Between these is any number but 0, less its sign: float32, which tensors are computed in, holds no more."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things; `many` is their plural if it is not made by an s.

    >>> counted(1, "client"), counted(1200, "row"), counted(0, "class", "classes")
    ('1 client', '1,200 rows', '0 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
