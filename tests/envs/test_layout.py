"""Tests that layouts preserve observations and actions, and of their error messages."""

from __future__ import annotations

import json
import pickle
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_seqmarl.envs.errors import LayoutError
from rllib_seqmarl.envs.layout import TeamLayout

sizes = st.integers(1, 4)
seeds = st.integers(0, 2**31 - 1)


def boxes(dtype: Any = np.float64) -> st.SearchStrategy[spaces.Space]:
    return st.lists(sizes, min_size=1, max_size=2).map(lambda shape: spaces.Box(-2.0, 3.0, tuple(shape), dtype))


observation_spaces = st.one_of(
    boxes(),
    boxes(np.float32),
    sizes.map(spaces.Discrete),
    st.lists(sizes, min_size=1, max_size=3).map(spaces.MultiDiscrete),
    sizes.map(spaces.MultiBinary),
    st.tuples(boxes(), sizes.map(spaces.Discrete)).map(spaces.Tuple),
    st.tuples(boxes(), sizes.map(spaces.Discrete)).map(lambda pair: spaces.Dict(first=pair[0], second=pair[1])),
)
discrete_spaces = st.one_of(
    st.tuples(sizes, st.integers(-2, 2)).map(lambda pair: spaces.Discrete(pair[0], start=pair[1])),
    st.lists(sizes, min_size=1, max_size=3).map(spaces.MultiDiscrete),
    sizes.map(spaces.MultiBinary),
)


@st.composite
def layouts(draw: st.DrawFn) -> TeamLayout:
    n = draw(st.integers(1, 5))
    own_spaces = draw(st.sampled_from([discrete_spaces, boxes(), boxes(np.float32)]))
    return TeamLayout(
        agents=tuple(f"agent_{i}" for i in range(n)),
        observation_spaces=tuple(draw(st.lists(observation_spaces, min_size=n, max_size=n))),
        action_spaces=tuple(draw(st.lists(own_spaces, min_size=n, max_size=n))),
        agent_ids=draw(st.booleans()),
        info_masks=draw(st.booleans()),
        state_dim=draw(st.integers(0, 3)),
    )


def seed_spaces(layout: TeamLayout, seed: int) -> None:
    for i, space in enumerate((*layout.observation_spaces, *layout.action_spaces, layout.action_space)):
        space.seed(seed + i)


@settings(deadline=None)
@given(layouts())
def test_json_and_pickle_round_trips(layout: TeamLayout) -> None:
    assert TeamLayout.from_dict(json.loads(json.dumps(layout.to_dict(), allow_nan=False))) == layout
    assert pickle.loads(pickle.dumps(layout)) == layout


@settings(deadline=None)
@given(layouts(), seeds)
def test_observations_are_padded_and_preserved(layout: TeamLayout, seed: int) -> None:
    seed_spaces(layout, seed)
    living = [agent for i, agent in enumerate(layout.agents) if (seed >> i) & 1]
    samples = {a: s.sample() for a, s in zip(layout.agents, layout.observation_spaces, strict=True) if a in living}
    masks = {a: np.ones(layout.own_actions[layout.agents.index(a)].sum(), np.int8) for a in living}
    if layout.info_masks:
        masks = {a: np.ones(own_width(layout, a), np.int8) for a in living}
    arrays = layout.observe(samples, masks, np.ones(layout.state_dim))
    assert arrays in layout.observation_space
    for i, (agent, space, size) in enumerate(
        zip(layout.agents, layout.observation_spaces, layout.obs_sizes, strict=True)
    ):
        row = arrays["observations"][i]
        expected = spaces.flatten(space, samples[agent]).astype(np.float32) if agent in living else np.zeros(size)
        np.testing.assert_array_equal(row[:size], expected)
        rest = row[size:]
        if layout.agent_ids:
            np.testing.assert_array_equal(rest[-layout.n_agents :], np.eye(layout.n_agents)[i])
            rest = rest[: -layout.n_agents]
        assert not rest.any()
        assert arrays["alive"][i] == (agent in living)


def own_width(layout: TeamLayout, agent: str) -> int:
    space = layout.action_spaces[layout.agents.index(agent)]
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return 2 * int(space.n) if isinstance(space, spaces.MultiBinary) else int(np.prod(space.shape))


@settings(deadline=None)
@given(layouts(), seeds)
def test_joint_actions_split_into_actions_in_own_spaces(layout: TeamLayout, seed: int) -> None:
    seed_spaces(layout, seed)
    actions = layout.split(layout.action_space.sample())
    for agent, space in zip(layout.agents, layout.action_spaces, strict=True):
        assert actions[agent] in space


@settings(deadline=None)
@given(layouts(), seeds)
def test_every_action_can_be_reached(layout: TeamLayout, seed: int) -> None:
    """Joining actions row by row and splitting them again restores them."""
    seed_spaces(layout, seed)
    own = {a: space.sample() for a, space in zip(layout.agents, layout.action_spaces, strict=True)}
    joint = np.zeros(layout.action_shape, np.int64 if layout.is_discrete else np.float32)
    for i, (agent, space) in enumerate(zip(layout.agents, layout.action_spaces, strict=True)):
        flat = np.ravel(own[agent] - getattr(space, "start", 0))
        row = joint.reshape(layout.n_agents, -1)[i]
        row[: flat.size] = (
            np.clip(flat, layout.low[i, : flat.size], layout.high[i, : flat.size]) if layout.dim else flat
        )
    for agent, action in layout.split(joint).items():
        np.testing.assert_allclose(action, own[agent], rtol=1e-6)


@settings(deadline=None)
@given(layouts())
def test_padding_mask_matches_the_joint_action_space(layout: TeamLayout) -> None:
    mask = layout.own_actions
    assert mask.shape == (layout.n_agents, layout.width)
    if not layout.is_discrete:
        assert mask.sum(axis=1).tolist() == [own_width(layout, agent) for agent in layout.agents]
        return
    nvec = layout.action_space.nvec.reshape(layout.n_agents, -1)
    for row, choices in zip(mask, nvec, strict=True):
        components = np.split(row, np.cumsum(layout.nvec)[:-1])
        assert [int(component.sum()) for component in components] == choices.tolist()
        assert all(component[:n].all() for component, n in zip(components, choices, strict=True))


@settings(deadline=None)
@given(layouts(), seeds)
def test_samples_are_legal(layout: TeamLayout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for actions in layout.sample(rng, 3):
        assert actions in layout.action_space
        assert set(layout.split(actions)) == set(layout.agents)  # which checks the ranges
    if layout.is_discrete:  # with one legal choice in each component, that one is drawn
        only = rng.integers(layout.action_space.nvec, size=(2, *layout.action_shape))
        starts = np.cumsum((0, *layout.nvec))[:-1]
        mask = np.zeros((2, layout.n_agents, layout.width), np.int8)
        np.put_along_axis(mask, only.reshape(2, layout.n_agents, -1) + starts, 1, axis=2)
        np.testing.assert_array_equal(layout.sample(rng, 2, mask), only)


def test_float32_bounds_stay_within_float64_bounds() -> None:
    space = spaces.Box(np.array([-0.1, 1 / 3]), np.array([0.1, 2 / 3]), dtype=np.float64)
    layout = TeamLayout(("a",), (spaces.Discrete(1),), (space,))
    for joint in (layout.low, layout.high):
        assert layout.split(joint)["a"] in space


@pytest.mark.parametrize("mask", [(1, 0, 1), [1, 0, 1], torch.tensor([1, 0, 1])])
def test_masks_may_be_sequences_and_tensors(mask: Any) -> None:
    layout = TeamLayout(("a",), (spaces.Discrete(2, start=3),), (spaces.Discrete(3),), info_masks=True)
    assert layout.observe({"a": 3}, {"a": mask})["action_mask"].tolist() == [[1, 0, 1]]


class Side(str, Enum):  # noqa: UP042, `str` of a StrEnum is its value
    LEFT = "left"


def test_names_of_an_enum_are_stored_by_value() -> None:
    layout = TeamLayout((Side.LEFT,), (spaces.Discrete(2),), (spaces.Discrete(3),))
    assert TeamLayout.from_dict(layout.to_dict()).agents == (Side.LEFT,)


def test_multi_discrete_mask_with_one_array_per_component() -> None:
    layout = TeamLayout(
        ("a", "b"),
        (spaces.Discrete(1),) * 2,
        (spaces.MultiDiscrete([2, 3]), spaces.Discrete(3)),
        info_masks=True,
    )
    masks = {
        "a": (np.array([0, 1], np.int8), np.array([1, 0, 1], np.int8)),
        "b": np.array([1, 1, 0], np.int8),
    }
    arrays = layout.observe({"a": 0, "b": 0}, masks)
    # The widest agent has components of 3 and 3 choices; b lacks the second one.
    assert arrays["action_mask"].tolist() == [[0, 1, 0, 1, 0, 1], [1, 1, 0, 1, 0, 0]]


LEGS, WHEEL = spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Discrete(4)


@pytest.mark.parametrize(
    ("action_spaces", "message"),
    [
        (
            [LEGS, WHEEL],
            r"cannot be joined: 'b' acts in Discrete\(4\) but 'a' acts in Box\(3,\)\. Wrap .* MultiDiscrete",
        ),
        ([WHEEL, spaces.Text(3)], r"agent 'b' acts in Text.*: a joint policy needs Discrete, MultiDiscrete"),
        ([WHEEL, spaces.Box(0, 9, (2,), np.int64)], r"agent 'b' acts in Box\(2,\).* or a non-empty floating-point Box"),
    ],
)
def test_incompatible_action_spaces_are_rejected(action_spaces: list[spaces.Space], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        TeamLayout(("a", "b"), (spaces.Discrete(2),) * 2, tuple(action_spaces))


def test_unsupported_observation_spaces_are_rejected() -> None:
    with pytest.raises(LayoutError, match=r"agent 'a': Sequence spaces are not supported"):
        TeamLayout(("a",), (spaces.Sequence(WHEEL),), (WHEEL,))
    with pytest.raises(LayoutError, match="agent 'a' observes only its action_mask"):
        TeamLayout(("a",), (spaces.Dict(action_mask=spaces.MultiBinary(4)),), (WHEEL,))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 4], r"agent 'b': action 4 is out of range \(choices: 4, from 0\)"),
        ([-1, 0], r"agent 'a': action -1 is out of range"),
        ([0.0, 1.0], r"integers, not float64"),
        ([0, 1, 2], r"has shape \(2,\), not \(3,\)"),
    ],
)
def test_invalid_discrete_actions_are_rejected(action: list[Any], message: str) -> None:
    layout = TeamLayout(("a", "b"), (WHEEL, WHEEL), (WHEEL, WHEEL))
    with pytest.raises(LayoutError, match=message):
        layout.split(action)


def test_invalid_continuous_actions_of_acting_agents_are_rejected() -> None:
    layout = TeamLayout(("a", "b"), (WHEEL, WHEEL), (LEGS, LEGS))
    action = np.zeros((2, 3), np.float32)
    action[1, 2] = 1.5
    with pytest.raises(LayoutError, match=r"agent 'b': action 1\.5 in dimension 2 is out of range \[-1\.0, 1\.0\]"):
        layout.split(action)
    assert layout.split(action, ["a"]).keys() == {"a"}
    action[1, 2] = np.nan
    with pytest.raises(LayoutError, match="agent 'b': action nan in dimension 2"):
        layout.split(action)
