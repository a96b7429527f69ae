"""How samples are split into passes."""

from hypothesis import given
from hypothesis import strategies as st

from splitcom.engines.passes import plan_passes


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), limit=st.integers(1, 400))
def test_every_row_is_in_one_pass_and_no_pass_of_several_rows_is_too_large(lengths, limit):
    passes = plan_passes(lengths, limit)
    assert sorted(row for one in passes for row in one) == list(range(len(lengths)))
    for one in passes:
        assert len(one) == 1 or len(one) * max(lengths[row] for row in one) <= limit
    if len(lengths) * max(lengths) <= limit:
        assert passes == [list(range(len(lengths)))] == plan_passes(lengths, None)
