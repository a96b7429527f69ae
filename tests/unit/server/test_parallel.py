"""Calls of several clients run side by side; all have ended before the first result is taken, in order."""

import threading

import pytest

from splitcom.server import parallel


@pytest.fixture(params=[1, 4])
def threads(monkeypatch, request):
    monkeypatch.setattr(parallel, "_num_threads", lambda: request.param)
    parallel._pool.cache_clear()
    yield request.param
    parallel._pool().shutdown()
    parallel._pool.cache_clear()


@pytest.mark.parametrize("threads", [4], indirect=True)
def test_calls_run_side_by_side_off_this_thread(threads):
    together = threading.Barrier(3, timeout=180)

    def call():
        together.wait()  # nobody passes alone
        return threading.current_thread()

    used = [result() for result in parallel.at_once(dict.fromkeys("abc", call)).values()]
    assert threading.main_thread() not in used and len(set(used)) == 3


def test_an_error_is_raised_where_its_result_is_taken_when_all_have_ended(threads):
    ended = []

    def fails():
        raise ValueError("of a")

    results = parallel.at_once({"a": fails, "b": lambda: ended.append("b"), "c": lambda: ended.append("c")})
    assert sorted(ended) == ["b", "c"]
    with pytest.raises(ValueError, match="of a"):
        results["a"]()
    assert results["b"]() is None


def test_one_call_is_made_in_this_thread(threads):
    assert parallel.at_once({"a": threading.current_thread})["a"]() is threading.main_thread()
