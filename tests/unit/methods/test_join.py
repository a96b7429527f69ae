"""What a client finds out before it asks the server."""

from pathlib import Path
from typing import Any, cast

import pytest

from splitcom.errors import DataError
from splitcom.methods.join import JoinOptions, _inquire
from splitcom.transports.grpc_calls import ServerCalls


@pytest.mark.parametrize("changes", [{"data": Path("gone.csv")}, {"held_out": Path("gone.csv")}])
def test_a_missing_file_is_named_before_the_server_is_asked(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("mr,text\na,b\n")
    given = {"data": tmp_path / "rows.csv"} | changes
    options = JoinOptions("127.0.0.1:1", identity=tmp_path, state=tmp_path, cache=tmp_path, **given)
    with pytest.raises(DataError, match=r"gone\.csv: no such file") as refused:
        _inquire(options, cast(ServerCalls, None))
    assert "data.source" not in str(refused.value)
