"""Comparison of the results of two vector environments."""

from __future__ import annotations

import numpy as np


def assert_same(ours: tuple, theirs: tuple) -> None:
    """Assert that the results of two resets or steps, with infos as lists, are equal."""
    for our, their in zip(ours, theirs, strict=True):
        if isinstance(our, dict):  # observations
            assert our.keys() == their.keys()
            for key in our:
                np.testing.assert_array_equal(our[key], their[key])
        elif isinstance(our, list):  # infos, one per environment
            for our_info, their_info in zip(our, their, strict=True):
                for key in (our_info.keys() | their_info.keys()) - {"agent_infos"}:  # gymnasium splits these by agent
                    np.testing.assert_array_equal(our_info[key], their_info[key])
        else:
            np.testing.assert_array_equal(our, their)
