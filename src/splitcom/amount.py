"""Numbers with their nouns, as messages write them."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things; `many` is their plural if it is not made by an s.

    >>> counted(1, "client"), counted(1200, "row"), counted(0, "class", "classes")
    ('1 client', '1,200 rows', '0 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
