"""What a client finds out before it asks the server."""

from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from splitcom.cli.status import print_check
from splitcom.config import Config
from splitcom.errors import DataError
from splitcom.methods import join
from splitcom.methods.join import JoinOptions, _inquire
from splitcom.models import fingerprint
from splitcom.parties.rows import ALL_ROWS
from splitcom.report.terminal import Terminal
from splitcom.transports.frames_pb2 import Description
from splitcom.transports.grpc_calls import LinkMeasurement, ServerCalls


@pytest.mark.parametrize("changes", [{"data": Path("gone.csv")}, {"held_out": Path("gone.csv")}])
def test_a_missing_file_is_named_before_the_server_is_asked(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("mr,text\na,b\n")
    given = {"data": tmp_path / "rows.csv"} | changes
    options = JoinOptions("127.0.0.1:1", identity=tmp_path, state=tmp_path, cache=tmp_path, **given)
    with pytest.raises(DataError, match=r"gone\.csv: no such file") as refused:
        _inquire(options, cast(ServerCalls, None), ALL_ROWS)
    assert "data.source" not in str(refused.value)


def test_a_dry_run_looks_at_the_first_rows_of_a_large_source_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"mr": "fox {i:04}", "text": "dog"}}\n' for i in range(100)) + "{\n")
    description = Description(
        run="ab", config_toml=Config().to_toml(), model_fingerprint=fingerprint("bundled")
    )
    calls = SimpleNamespace(
        describe=lambda *digest: description,
        measure=lambda *, thorough: LinkMeasurement(0.01, 1e6, 1e6),
    )
    monkeypatch.setattr(join, "_calls", lambda options: nullcontext(calls))
    monkeypatch.setattr(join, "load_identity", lambda path: SimpleNamespace(name="a"))
    monkeypatch.setattr("splitcom.parties.rows._FIRST_CHARACTERS", 500)
    options = JoinOptions("127.0.0.1:1", data=rows, identity=tmp_path, state=tmp_path, cache=tmp_path)
    found = join.check(options)
    shown = StringIO()
    print_check(Terminal(file=shown, width=200), found)
    assert f"warning: only the first 46 rows of {rows} are looked at" in shown.getvalue()
    with pytest.raises(DataError, match=r"rows\.jsonl:101: not JSON"):
        _inquire(options, cast(ServerCalls, calls), ALL_ROWS)
