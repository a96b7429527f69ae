"""Who may take part, also in the eyes of a server that is started again."""

import pytest

from splitcom.errors import IdentityError, RunError
from splitcom.methods.seats import Seats
from splitcom.transports.events import Excluded


def test_any_certificate_will_do_unless_names_are_given(tmp_path):
    assert Seats(None, tmp_path).barred("anyone") is None
    seats = Seats(["a", "b"], tmp_path)
    assert seats.barred("a") is None and "federation.names" in seats.barred("anyone")
    with pytest.raises(IdentityError, match=r"client name '\.\./a'"):
        Seats(["a", "../a"], tmp_path)


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_what_is_decided_is_not_forgotten(tmp_path, names):
    seats = Seats(names, tmp_path)
    seats.exclude(Excluded("a", "stolen"))
    seats.exclude(Excluded("b", "x has its place", replaced=True), successor="x")
    for one in (seats, Seats(names, tmp_path)):
        assert (
            one.barred("a") == "stolen" and one.barred("b") == "x has its place" and one.barred("x") is None
        )
        assert one.excluded == [Excluded("a", "stolen"), Excluded("b", "x has its place", replaced=True)]
    assert seats.admit("a") and not seats.admit("a") and Seats(names, tmp_path).barred("a") is None
    seats.exclude(Excluded("x", "a is back", replaced=True), successor="b")
    assert Seats(names, tmp_path).barred("b") is None
    assert (tmp_path / "seats.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "[]", '{"excluded": [{"client": "a"}], "added": []}'])
def test_a_damaged_file_lets_nobody_in(tmp_path, content):
    (tmp_path / "seats.json").write_text(content)
    with pytest.raises(RunError, match=r"seats\.json: cannot be read .*remove it"):
        Seats(None, tmp_path)
