"""Which calls give way, and that one which does not end is held against its client."""

from contextlib import ExitStack

import pytest

from splitcom.transports.streams import Streams, TooManyStreams


def test_calls_that_do_not_end_are_counted_until_they_do():
    streams, ended = Streams(per_client=1, in_all=99), []
    with ExitStack() as stack:
        calls = []
        for number in range(5):  # four of them have been told to end
            calls.append(ExitStack())
            stack.enter_context(calls[-1])
            calls[-1].enter_context(streams.held("a", lambda number=number: ended.append(number)))
        assert ended == [0, 1, 2, 3]
        with pytest.raises(TooManyStreams), streams.held("a", list):
            pass
        with streams.held("b", list):  # others are not kept out
            pass
        calls[2].close()
        with streams.held("a", list):
            assert ended == [0, 1, 2, 3, 4]


def test_who_gives_way_by_itself_is_no_choice_any_more_and_who_is_needed_never():
    streams, ended = Streams(per_client=1, in_all=99), []
    with (
        streams.held("a", lambda: ended.append("leaving")) as leaving,
        streams.held("a", lambda: ended.append("needed")) as needed,
        streams.held("a", lambda: ended.append("oldest")),
    ):
        needed.is_needed = lambda: True
        ended.clear()
        streams.dismiss(leaving)
        streams.dismiss(leaving)
        with streams.held("a", lambda: ended.append("newest")):
            assert ended == ["oldest"]
