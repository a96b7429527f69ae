"""Who is there, and whose turn it is."""

import pytest

from splitcom.protocol.session import Form, Role, Session, State
from splitcom.server.peers import Peer


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("state", State)
def test_a_client_owes_what_the_table_says_once_it_has_said_hello(form, state):
    session = Session(Role.SERVER, state, form)
    peer = Peer(session)
    assert peer.is_present == (state is not State.CONNECTING)
    assert peer.owes == (peer.is_present and session.turn is Role.CLIENT)
    assert (peer.is_idle, peer.is_greeted) == (state is State.IDLE, state is State.GREETED)


def test_without_a_conversation_nobody_is_there():
    peer = Peer()
    assert not (peer.is_present or peer.owes or peer.is_idle or peer.is_greeted)
