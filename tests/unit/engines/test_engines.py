"""Which engines there are, and what is said of one that there is not."""

import pytest

from splitcom.config import Config
from splitcom.engines import ENGINES
from splitcom.errors import ConfigError
from splitcom.methods.run import configured


def test_an_engine_that_is_not_there_is_refused_before_anything_is_loaded():
    assert next(iter(ENGINES)) == Config().engine.kind
    with pytest.raises(
        ConfigError, match=r"engine\.kind = 'tpu': no such engine; there are local, placed, sharded, ray"
    ):
        configured(Config(engine={"kind": "tpu"}))
