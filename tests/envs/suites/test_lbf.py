"""Tests that fields match the package, except for truncations and seeding."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("lbforaging")

from lbforaging.foraging import ForagingEnv
from lbforaging.foraging.environment import Action

from rllib_seqmarl.envs.suites.lbf import SUITE, make_lbf

OPTIONS = {
    "penalty": 0.1,
    "normalize_reward": False,
    "max_player_level": 3,
    "max_food_level": 2,
    "observe_agent_levels": False,
}


def constants(env: Any) -> dict[str, str]:
    """All plain attributes of a bare environment, including its constructor's arguments."""
    plain = (int, float, str, tuple, dict, np.ndarray, gym.Space, type(None))
    return {name: repr(value) for name, value in vars(env).items() if isinstance(value, plain)}


@pytest.mark.parametrize(
    ("task", "registered", "differs"),
    [
        ("2s-8x8-2p-2f-coop", "2s-8x8-2p-2f-coop", {}),
        ("8x8-2p-2f-coop", "8x8-2p-2f-coop", {}),
        ("2s-10x10-3p-3f", "2s-10x10-3p-3f", {}),
        ("15x15-4p-3f", "15x15-4p-3f", {}),
        ("15x15-3p-5f", "15x15-3p-4f", {"max_num_food": 5}),
        ("3s-20x20-9p-4f", "19x19-9p-4f", {"field_size": (20, 20), "sight": 3}),
    ],
)
def test_task_names_match_the_package(task: str, registered: str, differs: dict[str, Any]) -> None:
    theirs = ForagingEnv(**{**gym.spec(f"Foraging-{registered}-v3").kwargs, **differs})
    assert constants(make_lbf(task).env) == constants(theirs)


@pytest.mark.parametrize("options", [{}, OPTIONS])
@pytest.mark.parametrize("task", ["5x5-2p-1f", "2s-5x5-2p-1f-coop", "2s-6x6-4p-2f"])
def test_steps_match_the_package(task: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    ends = set()
    for seed, steps in enumerate([20] * 4 + [500] * 4):
        theirs = ForagingEnv(**{**gym.spec(f"Foraging-{task}-v3").kwargs, "max_episode_steps": steps, **options})
        ours = make_lbf(task, max_episode_steps=steps, **options)
        agents = ours.possible_agents
        observations, infos = ours.reset(seed=seed)
        np.testing.assert_array_equal(list(observations.values()), theirs.reset(seed=seed)[0])
        over = False
        while not over:
            for agent, player in zip(agents, theirs.players, strict=True):
                mask = infos[agent]["action_mask"]
                assert mask.dtype == np.int8
                assert mask.tolist() == [theirs._is_valid_action(player, action) for action in Action]
                assert "win" not in infos[agent]
            actions = rng.integers(6, size=len(agents))
            result = ours.step(dict(zip(agents, actions, strict=True)))
            observations, rewards, terminated, truncated, infos = result
            their_observations, their_rewards, over, _, _ = theirs.step(actions)
            np.testing.assert_array_equal(list(observations.values()), their_observations)
            assert list(rewards.values()) == their_rewards
            won = over and theirs.field.sum() == 0
            assert terminated == dict.fromkeys(agents, won)
            assert truncated == dict.fromkeys(agents, over and not won)
        assert ours.agents == []
        assert all("action_mask" in info and info["win"] == won for info in infos.values())
        ends.add(won)
    assert ends == {True, False}


def test_seeds_fix_episodes_regardless_of_earlier_ones() -> None:
    env = make_lbf("8x8-2p-2f-coop")
    for seed in range(10):
        first = env.reset(seed=seed)[0]
        for _ in range(3):
            env.step({"agent_0": 1, "agent_1": 3})
        again = env.reset(seed=seed)[0]
        assert all((first[agent] == again[agent]).all() for agent in first)
    following = env.reset()[0]
    assert (following["agent_0"] != again["agent_0"]).any()


def test_collecting_all_food_in_the_last_step_is_a_win() -> None:
    env = make_lbf("8x8-2p-1f", max_episode_steps=1)
    env.reset(seed=0)
    field = env.env
    (row,), (column,) = field.field.nonzero()
    helper, idler = field.players
    helper.position, helper.level = (row - 1, column), field.field[row, column]
    idler.position = (row + 1, column)
    field._gen_valid_moves()
    _, rewards, terminated, truncated, infos = env.step({"agent_0": 5, "agent_1": 0})
    assert rewards == {"agent_0": 1.0, "agent_1": 0.0}
    assert terminated == {"agent_0": True, "agent_1": True}
    assert truncated == {"agent_0": False, "agent_1": False}
    assert [info["win"] for info in infos.values()] == [1.0, 1.0]


def test_all_registered_tasks_are_valid() -> None:
    registered = [name[len("Foraging-") : -len("-v3")] for name in gym.registry if name.startswith("Foraging-")]
    assert len(registered) == 15 * 8 * 4 * 2 * 2
    assert all(map(SUITE.knows, registered))
    assert all(map(SUITE.knows, SUITE.tasks))
    for wrong in ("8x8", "8x9-2p-2f", "4x4-2p-1f", "9s-8x8-2p-2f", "0s-8x8-2p-2f", "8x8-1p-2f", "8x8-2p-2f-grid"):
        assert not SUITE.knows(wrong)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_episode_steps", 0, "max_episode_steps=0 is out of range: give an integer >= 1"),
        ("penalty", -0.1, "penalty=-0.1 is out of range: give a number >= 0"),
        ("normalize_reward", None, "normalize_reward=None is unknown"),
        ("max_player_level", 0, "max_player_level=0 is out of range"),
        ("max_food_level", 0, "max_food_level=0 is out of range"),
        ("observe_agent_levels", "yes", "observe_agent_levels='yes' is unknown"),
        ("render_mode", "human", "render_mode='human' is unknown"),
    ],
)
def test_invalid_options_are_rejected(option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_lbf("8x8-2p-2f", **{option: value})


def test_render_shows_agent_positions() -> None:
    env = make_lbf("8x8-2p-2f", render_mode="rgb_array")
    env.reset(seed=0)
    try:
        before = env.render()
    except ImportError as error:
        pytest.skip(f"no OpenGL here: {error}")
    assert before.ndim == 3 and before.shape[2] == 3 and before.dtype == np.uint8
    assert (env.render() == before).all()
    env.env.players[0].position = next(zip(*np.where(env.env.field == 0), strict=True))  # a different cell
    assert (env.render() != before).any()
    env.close()
