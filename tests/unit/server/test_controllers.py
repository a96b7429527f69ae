"""What controllers have learnt is written down so that a damaged copy is not learnt from."""

import pytest

from splitcom.config import Config
from splitcom.errors import ConfigError
from splitcom.metrics.record import RunFolder
from splitcom.server.controllers import Controllers

LEARNS = Config().override(
    {
        "flows.activation_up.codec": "temporal(0.9) > delta > int8",
        "flows.activation_up.controller": "ddpg(0.9, 1.0)",
    }
)


def test_a_damaged_agent_is_refused_and_a_whole_one_is_not(tmp_path):
    pytest.importorskip("stable_baselines3")
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run").controllers
    Controllers(LEARNS).export(folder)
    begins = LEARNS.override({"control.start_from": str(tmp_path / "run")})
    assert Controllers(begins).decisions
    file = folder / "activation_up.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of a tensor
    file.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"the checksum of activation_up\.safetensors does not hold; put back"
    ):
        Controllers(begins)
