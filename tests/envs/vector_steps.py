"""Comparing what two vector environments gave."""

from __future__ import annotations

import numpy as np


def assert_same(ours: tuple, theirs: tuple) -> None:
    """Asserts that two resets or two steps, with infos as lists, gave the same."""
    for our, their in zip(ours, theirs, strict=True):
        if isinstance(our, dict):  # observations
            assert our.keys() == their.keys()
            for key in our:
                np.testing.assert_array_equal(our[key], their[key])
        elif isinstance(our, list):  # infos, one an environment
            for our_info, their_info in zip(our, their, strict=True):
                for key in (our_info.keys() | their_info.keys()) - {"agent_infos"}:  # gymnasium takes these apart
                    np.testing.assert_array_equal(our_info[key], their_info[key])
        else:
            np.testing.assert_array_equal(our, their)
