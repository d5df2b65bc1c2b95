"""Episodes packed into a rollout: every row once, in order, and continued episodes first."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rllib_seqmarl.rollouts.packing import _arrange


@given(st.lists(st.tuples(st.integers(2, 30), st.sampled_from([0, 0, 7])), min_size=1, max_size=30))
def test_chunks_are_placed_whole_below_each_other(chunks: list[tuple[int, int]]) -> None:
    lengths, starts = np.array([length for length, _ in chunks]), [start for _, start in chunks]
    rows, is_inside, first_starts = _arrange(lengths, starts)
    assert sorted(rows[is_inside]) == list(range(lengths.sum()))
    assert len(rows) < lengths.sum() / rows.shape[1] + lengths.max()  # environments of about equal height
    ends = np.cumsum(lengths)
    chunk_of = np.searchsorted(ends, rows, side="right")  # (T, B)
    for env in range(rows.shape[1]):
        height = is_inside[:, env].sum()
        assert is_inside[:height, env].all()
        assert first_starts[env] == starts[chunk_of[0, env]]
        for t in range(1, height):
            if chunk_of[t, env] == chunk_of[t - 1, env]:
                assert rows[t, env] == rows[t - 1, env] + 1
            else:
                assert rows[t - 1, env] == ends[chunk_of[t - 1, env]] - 1
                assert starts[chunk_of[t, env]] == 0
