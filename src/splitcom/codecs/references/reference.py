"""What is known of a reference without reading it."""

from typing import NamedTuple


class Reference(NamedTuple):
    """What is known of a stored reference without reading it."""

    length: int
    """Tokens."""
    version: int
    """Counts the times this sample was sent; 1 if it was sent without use of an older reference."""
    checksum: int
    """CRC-32 of its bytes in the store's precision."""
