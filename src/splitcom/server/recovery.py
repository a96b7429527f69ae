"""How often references may be lost in one exchange: once on each side, since what is sent again builds on none."""

from splitcom.errors import RemoteProtocolError


class Recovery:
    """One exchange with one client; raises RemoteProtocolError when one side loses references twice.

    >>> recovery = Recovery()
    >>> recovery.of_client(), recovery.of_server()
    (None, None)
    >>> recovery.of_client()
    Traceback (most recent call last):
    ...
    splitcom.errors.RemoteProtocolError: references are lost again and again in one step
    """

    def __init__(self) -> None:
        self._of_client = self._of_server = False

    def of_client(self) -> None:
        """The client has lost a reference."""
        _check(self._of_client)
        self._of_client = True

    def of_server(self) -> None:
        """The server has lost one, or labels."""
        _check(self._of_server)
        self._of_server = True


def _check(again: bool) -> None:
    if again:
        raise RemoteProtocolError("references are lost again and again in one step")
