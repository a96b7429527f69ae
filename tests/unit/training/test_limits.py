"""How large messages of a run may be, of either side."""

import pytest
import torch

from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.limits import LIMITS
from splitcom.protocol.messages_pb2 import Message
from splitcom.protocol.session import Role, Session, State
from splitcom.training.limits import largest, limits_of

CONFIG = Config(training={"batch_size": 4}, evaluation={"batch_size": 4}, data={"max_tokens": 256})
WIDTH = 768
ADAPTER = {"a": torch.zeros(8, 64)}
NUMBERS = CONFIG.training.batch_size * CONFIG.data.max_tokens * WIDTH


def test_every_kind_is_bounded_by_what_the_run_has():
    limits = limits_of(CONFIG, WIDTH, ADAPTER)
    assert limits.keys() == LIMITS.keys()
    assert largest(limits) < 3 * 4 * NUMBERS
    for kind in ("activation", "activation_up", "activation_down", "gradient_up", "gradient"):
        assert limits[kind] > 4 * NUMBERS
    whole = limits_of(CONFIG, None, ADAPTER)
    assert whole["gradient"] == whole["activation"] < whole["welcome"] == largest(whole)
    assert whole["round_start"] == whole["round_end"] == limits["evaluation_start"] > 4 * 8 * 64


@pytest.mark.parametrize(
    ("kind", "state"), [("gradient", State.AWAITING_GRADIENT), ("round_start", State.IDLE)]
)
def test_what_is_larger_is_not_parsed_by_a_client_either(kind, state):
    limits = limits_of(CONFIG, WIDTH, ADAPTER)
    field = {"gradient": "gradient", "round_start": "adapter"}[kind]
    for size, fits in ((limits[kind] - 100, True), (limits[kind], False)):
        session = Session(Role.CLIENT, state, limits=limits)
        data = Message(**{kind: {field: bytes(size)}}).SerializeToString()
        if fits:
            assert session.receive(data).WhichOneof("kind") == kind
        else:
            with pytest.raises(RemoteProtocolError, match=f"'{kind}' of .* at most"):
                session.receive(data)
