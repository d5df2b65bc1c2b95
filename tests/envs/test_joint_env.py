"""Tests that a joint environment is equivalent to the underlying multi-agent environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_envs import TakingTurns, ToyTeam

from rllib_seqmarl.envs.adapters import agent_names
from rllib_seqmarl.envs.catalog import make_joint_env
from rllib_seqmarl.envs.joint_env import JointEnv

D3, D5 = spaces.Discrete(3), spaces.Discrete(5)


def episode(env: JointEnv, seed: int = 0) -> list[tuple[Any, ...]]:
    """The results of an episode with legal actions."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    steps: list[tuple[Any, ...]] = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        action = env.action_space.sample()
        if "action_mask" in observation and env.layout.is_discrete and action.ndim == 1:
            action = observation["action_mask"].argmax(axis=1)
        observation, *rest = env.step(action)
        assert observation in env.observation_space
        steps.append((observation, *rest))
    return steps


@pytest.mark.parametrize(
    "action_spaces",
    [
        [D3, D5],
        [spaces.MultiDiscrete([2, 4]), spaces.MultiDiscrete([3, 3])],
        [spaces.MultiDiscrete([2, 4]), D5],
        [spaces.Box(-1, 1, (2,), np.float32), spaces.Box(0, 3, (2, 2), np.float64)],
        [spaces.Discrete(3, start=-1)],
    ],
)
def test_agents_receive_actions_in_their_own_spaces(action_spaces: list[spaces.Space]) -> None:
    team = ToyTeam(action_spaces)
    episode(JointEnv(team))
    for taken in team.taken:
        assert all(action in team.action_space(agent) for agent, action in taken.items())
        assert taken.keys() == set(team.possible_agents)


def test_mask_is_present_iff_actions_can_be_illegal() -> None:
    assert "action_mask" not in JointEnv(ToyTeam([D3, D3])).observation_space.spaces
    assert "action_mask" in JointEnv(ToyTeam([D3, D5])).observation_space.spaces
    assert "action_mask" in JointEnv(ToyTeam([D3, D3], masks="info")).observation_space.spaces
    assert "action_mask" in JointEnv(ToyTeam([D3, D3], masks="observation")).observation_space.spaces


@pytest.mark.parametrize("masks", ["info", "observation"])
def test_masks_in_infos_and_observations(masks: str) -> None:
    for step, (observation, *_) in enumerate(episode(JointEnv(ToyTeam([D3, D5], masks=masks))), start=1):
        expected = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        expected[0, step % 3] = expected[1, step % 5] = 0
        assert observation["action_mask"].tolist() == expected.tolist()
        assert observation["observations"].shape == (2, 2 + 2)


def test_ragged_float64_observations_are_padded_to_float32() -> None:
    team = ToyTeam([D3, D3, D3], obs_sizes=[9, 9, 8], dtype=np.float64)
    observation, _ = JointEnv(team, agent_ids=False).reset(seed=4)
    raw, _ = team.reset(seed=4)
    assert observation["observations"].dtype == np.float32
    np.testing.assert_array_equal(observation["observations"][2, :8], raw["c"].astype(np.float32))
    assert observation["observations"][2, 8] == 0.0


def test_dead_agents_keep_their_rows_and_do_not_act() -> None:
    team = ToyTeam([D3, D3, D5], deaths={"b": 2}, masks="info")
    steps = episode(JointEnv(team))
    alive = [observation["alive"].tolist() for observation, *_ in steps]
    assert alive == [[1, 1, 1], *[[1, 0, 1]] * 5]
    for observation, *_ in steps[1:]:
        assert observation["observations"][1].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]  # only its ID
        assert observation["action_mask"][1].tolist() == [1, 0, 0, 0, 0]
    assert ["b" in taken for taken in team.taken] == [True, True, False, False, False, False]
    rewards = [info["agent_rewards"].tolist() for *_, info in steps]
    assert rewards == [[0.0, 1.0, 2.0]] * 2 + [[0.0, 0.0, 2.0]] * 4


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_agent_terminateds(is_cut_off: bool) -> None:
    def cut_off(results: tuple[Any, ...], step: int) -> None:
        _, _, terminated, truncated, _ = results
        if is_cut_off and terminated.get("b"):
            terminated["b"], truncated["b"] = False, True

    steps = episode(JointEnv(ToyTeam([D3] * 3, deaths={"b": 2}, spoil=cut_off)))
    terminateds = [info["agent_terminateds"].tolist() if "agent_terminateds" in info else None for *_, info in steps]
    # Values of agents truncated with the whole team are bootstrapped, so they do not count.
    assert terminateds == [None, [False, True, False], None, None, None, None]


def test_agents_absent_at_reset_may_join_later() -> None:
    team = ToyTeam([D3, D3], absent=("b",))
    env = JointEnv(team)
    observation, _ = env.reset()
    assert observation["alive"].tolist() == [1, 0]
    observation, *_ = env.step([0, 0])
    assert observation["alive"].tolist() == [1, 1]
    env.step([0, 0])
    assert [set(taken) for taken in team.taken] == [{"a"}, {"a", "b"}]


@pytest.mark.parametrize(("team_reward", "expected"), [("mean", 1.0), ("sum", 3.0)])
def test_team_reward_and_agent_rewards(team_reward: str, expected: float) -> None:
    steps = episode(JointEnv(ToyTeam([D3] * 3), team_reward=team_reward))
    assert [reward for _, reward, *_ in steps] == [expected] * 6
    assert all(info["agent_rewards"].tolist() == [0.0, 1.0, 2.0] for *_, info in steps)
    assert steps[-1][-1]["episode_agent_returns"].tolist() == [0.0, 6.0, 12.0]
    assert all("episode_agent_returns" not in info for *_, info in steps[:-1])


def test_truncation_and_termination() -> None:
    truncated, terminated = (episode(JointEnv(ToyTeam(terminates=terminates)))[-1] for terminates in (False, True))
    assert truncated[2:4] == (False, True)
    assert terminated[2:4] == (True, False)
    # In both cases, the last observation belongs to the episode and includes all agents.
    for observation, *_ in (truncated, terminated):
        assert observation["alive"].tolist() == [1, 1] and observation["observations"][:, :2].all()


def test_only_living_agents_bootstrap_after_truncation() -> None:
    observation, _, terminated, truncated, _ = episode(JointEnv(ToyTeam([D3, D3], deaths={"a": 6})))[-1]
    assert (terminated, truncated) == (False, True)  # a died in the step that truncated b
    assert observation["alive"].tolist() == [0, 1]


def test_team_whose_agents_die_one_by_one_is_terminated() -> None:
    steps = episode(JointEnv(ToyTeam([D3, D3], deaths={"a": 2, "b": 4})))
    assert len(steps) == 4 and steps[-1][2:4] == (True, False)


def test_global_state_is_optional() -> None:
    steps = episode(JointEnv(ToyTeam(), global_state=True))
    assert [observation["state"].tolist() for observation, *_ in steps[:2]] == [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]


@pytest.mark.parametrize("key", ["battle_won", "won", "win", "success", "is_success"])
def test_win_is_reported_with_the_last_step(key: str) -> None:
    steps = episode(JointEnv(ToyTeam(infos={key: np.True_})))
    assert steps[-1][-1]["win"] == 1.0
    assert all("win" not in info for *_, info in steps[:-1])


@pytest.mark.parametrize(("task", "expected"), [("nav", "nav"), (None, None), ({"goal": [1, 2]}, None)])
def test_only_names_of_tasks_are_reported(task: Any, expected: str | None) -> None:
    assert episode(JointEnv(ToyTeam(infos={"task": task})))[-1][-1].get("task") == expected


def test_one_agent_is_a_team() -> None:
    env = JointEnv(ToyTeam([D3]))
    assert env.action_space.shape == (1,)
    assert len(episode(env)) == 6


@pytest.mark.parametrize("end", ["truncated", "terminated"])
def test_agents_of_rllib_environments_may_pause(end: str) -> None:
    env = JointEnv(TakingTurns({"end": end}))
    steps = episode(env)
    assert [observation["alive"].argmax() for observation, *_ in steps] == [1, 2, 0, 1, 2]
    assert all(observation["alive"].sum() == 1 for observation, *_ in steps)
    assert [list(taken) for taken in env.env.taken] == [["x"], ["y"], ["z"], ["x"], ["y"]]
    assert [info["agent_rewards"].tolist() for *_, info in steps[:2]] == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert steps[-1][2:4] == (end == "terminated", end == "truncated")


def test_agent_order_follows_possible_agents() -> None:
    assert JointEnv(TakingTurns()).layout.agents == ("x", "y", "z")


@pytest.mark.parametrize("names", [{"agent_10", "agent_2", "agent_1"}, frozenset({2, 10, 1})])
def test_sets_of_agents_have_one_order(names: Any) -> None:
    """The order of a set of strings differs between processes, whose rows would then belong to different agents."""
    env = TakingTurns()
    env.possible_agents = names
    env.observation_spaces = dict.fromkeys(names, env.observation_spaces["x"])
    env.action_spaces = dict.fromkeys(names, env.action_spaces["x"])
    assert [str(agent)[-2:].strip("_") for agent in agent_names(env)] == ["1", "2", "10"]


def test_images_are_passed_through() -> None:
    env = make_joint_env("coordination/distinct_choice", {"render_mode": "rgb_array"})
    env.reset(seed=0)
    assert env.render_mode == "rgb_array"
    assert env.render().dtype == np.uint8


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 8), max_size=4))
def test_results_are_new_arrays(seed: int, deaths: list[int]) -> None:
    """Returned arrays are not modified by later steps, so callers need no copies."""
    names = dict(zip("abcd", deaths, strict=False))
    env = JointEnv(ToyTeam([D3, D5, D3, D3], deaths=names, masks="info"))
    env.action_space.seed(seed)
    originals, copies = [], []
    for observation, _, _, _, info in episode(env, seed):
        arrays = [*observation.values(), info["agent_rewards"]]
        originals.append(arrays)
        copies.append([array.copy() for array in arrays])
    for arrays, copied in zip(originals, copies, strict=True):
        for array, copy in zip(arrays, copied, strict=True):
            np.testing.assert_array_equal(array, copy)


def test_agents_absent_at_the_start_are_not_in_the_mean() -> None:
    env = JointEnv(ToyTeam([D3] * 4, absent=("d",), rewards=lambda agent, step: float(agent != "d")))
    env.reset(seed=0)
    assert env.step([0, 0, 0, 0])[1] == pytest.approx(1.0)
