"""Tests of fitting continuous actions to their bounds, and of the types of decoded actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rllib_seqmarl.envs.errors import LayoutError
from rllib_seqmarl.envs.joint_actions import fit_to_bounds
from rllib_seqmarl.envs.layout import TeamLayout

INF = np.inf


def layout(*action_spaces: spaces.Space) -> TeamLayout:
    n = len(action_spaces)
    return TeamLayout(tuple(range(n)), (spaces.Discrete(2),) * n, action_spaces)


def box(low: Any, high: Any, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


TEAM = layout(box([0, -4], [1, 8]), box([-INF, 0], [INF, INF]), box([-INF], [3]))
RAW = np.array([[[-1, 0.5], [9, -2], [5, 0.25]], [[1, 3], [-0.1, 2], [-7, 2]]], np.float32)  # (2, n, dim)


def test_bounded_dimensions_are_scaled_and_others_clipped() -> None:
    fitted = TEAM.fit(RAW, normalize=True, clip=False)
    expected = [[[0, 5], [9, 0], [3, 0.25]], [[1, 8], [-0.1, 2], [-7, 1]]]
    np.testing.assert_allclose(fitted, np.array(expected, np.float32), rtol=1e-6)
    for joint_action in fitted:
        actions = TEAM.split(joint_action).values()
        assert all(action in space for action, space in zip(actions, TEAM.action_spaces, strict=True))


def test_clipping_alone_does_not_scale() -> None:
    clipped = TEAM.fit(RAW, normalize=False, clip=True)
    np.testing.assert_array_equal(clipped, np.clip(RAW, TEAM.low, TEAM.high))
    np.testing.assert_array_equal(TEAM.fit(RAW, normalize=False, clip=False), RAW)


def test_fully_bounded_actions_match_rllib() -> None:
    from ray.rllib.utils.spaces.space_utils import unsquash_action

    team = layout(box([0, -4], [1, 8]), box([-2, 0.1], [2, 0.3]))
    actions = np.random.default_rng(0).normal(size=(50, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        fit_to_bounds(actions, team.low, team.high, normalize=True, clip=True),
        unsquash_action(actions, team.action_space),
    )


@pytest.mark.parametrize(
    "space",
    [
        *(
            box([np.finfo(kind).min] * 2, [np.finfo(kind).max] * 2, kind)
            for kind in (np.float16, np.float32, np.float64)
        ),
        box([-1e30] * 2, [1e35] * 2),
    ],
)
def test_bounds_at_the_limits_of_the_dtype_are_infinite(space: spaces.Box) -> None:
    team = layout(space)
    assert team.low.tolist() == [[-INF, -INF]] and team.high.tolist() == [[INF, INF]]
    np.testing.assert_array_equal(team.fit(RAW[:, :1], normalize=True, clip=True), RAW[:, :1])


def test_empty_bounds_are_rejected() -> None:
    space = spaces.Box(-1.0, 1.0, (2,))
    for low in (2.0, np.nan):
        space.low = np.full(2, low, np.float32)
        with pytest.raises(LayoutError, match="agent 0 acts in Box.*its bounds need low <= high"):
            layout(space)
    with pytest.raises(LayoutError, match=r"agent 0 acts in Box\(0,\): a joint policy needs"):
        layout(spaces.Box(-1.0, 1.0, (0,)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.Discrete(4, dtype=np.int32),
        spaces.MultiDiscrete([2, 3], dtype=np.int8, start=[1, 1]),
        spaces.MultiBinary(2),
        spaces.Box(-1, 1, (2,), np.float64),
    ],
)
def test_actions_have_the_type_of_samples(space: spaces.Space) -> None:
    team = layout(space)
    (action,) = team.split(np.zeros(team.action_shape, np.int64 if team.is_discrete else np.float32)).values()
    assert type(action) is type(space.sample())
    assert action.dtype == space.sample().dtype
    assert action in space
