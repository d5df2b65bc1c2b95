"""Tests that SISL's steps match PettingZoo's, and that its time limits are truncations."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("Box2D")
pytest.importorskip("pygame")

from rllib_seqmarl.envs.joint_env import JointEnv  # noqa: E402
from rllib_seqmarl.envs.suites.sisl import make_sisl  # noqa: E402

MODULES = {"multiwalker": "multiwalker_v9", "pursuit": "pursuit_v5"}


def package(task: str, **options: Any) -> Any:
    return importlib.import_module(f"pettingzoo.sisl.{MODULES[task]}").parallel_env(**options)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("multiwalker", {}),
        ("multiwalker", {"shared_reward": False, "terminate_on_fall": False, "n_walkers": 2}),
        ("multiwalker", {"terminate_on_fall": False, "remove_on_fall": False}),
        ("pursuit", {"max_cycles": 12}),
        ("pursuit", {"max_cycles": 12, "shared_reward": False, "surround": False, "n_catch": 1, "n_pursuers": 3}),
    ],
)
def test_steps_match_the_package(task: str, options: dict[str, Any]) -> None:
    ours, theirs = make_sisl(task, **options), package(task, **options)
    rng = np.random.default_rng(0)
    some_reward = 0.0
    for seed in (3, None, 3):
        our, their = ours.reset(seed=seed), theirs.reset(seed=seed)
        assert_same(our[0], their[0])
        while theirs.agents:
            assert ours.agents == theirs.agents
            if task == "pursuit" or all(walker.hull for walker in theirs.unwrapped.env.walkers):
                np.testing.assert_array_equal(ours.state(), theirs.state())  # PettingZoo's state fails after a fall
            actions = {}
            for agent in theirs.agents:
                space = theirs.action_space(agent)
                continuous = task == "multiwalker"
                actions[agent] = (
                    rng.uniform(-1, 1, space.shape).astype(np.float32) if continuous else int(rng.integers(space.n))
                )
            our, their = ours.step(actions), theirs.step(actions)
            assert_same(our[0], their[0])
            assert_same(our[1], their[1])
            ended = [{agent: step[2][agent] or step[3][agent] for agent in actions} for step in (our, their)]
            assert ended[0] == ended[1]
            some_reward += sum(map(abs, our[1].values()))
    assert some_reward > 0


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for agent in ours:
        np.testing.assert_array_equal(ours[agent], theirs[agent])


def idle_actions(env: Any) -> dict[str, Any]:
    """Actions with which all agents do nothing."""
    spaces = {agent: env.action_space(agent) for agent in env.agents}
    return {agent: np.zeros(4, np.float32) if space.shape else 4 for agent, space in spaces.items()}


def test_multiwalkers_time_limit_is_a_truncation() -> None:
    ours, theirs = make_sisl("multiwalker", max_cycles=3), package("multiwalker", max_cycles=3)
    ours.reset(seed=0), theirs.reset(seed=0)
    for _ in range(3):
        our, their = ours.step(idle_actions(ours)), theirs.step(idle_actions(theirs))
    assert all(their[2].values()) and not any(their[3].values())  # PettingZoo reports terminations
    assert not any(our[2].values()) and all(our[3].values()) and ours.agents == []
    assert {info["win"] for info in our[4].values()} == {0.0}


def episode(env: Any, seed: int) -> list[Any]:
    env.reset(seed=seed)
    rng, steps = np.random.default_rng(seed), []
    while env.agents:
        steps.append(env.step({agent: rng.uniform(-1, 1, 4).astype(np.float32) for agent in env.agents}))
    return steps


def test_a_fall_in_the_last_step_is_a_termination() -> None:
    length = len(episode(make_sisl("multiwalker"), seed=0))
    assert length < 500
    *_, last = episode(make_sisl("multiwalker", max_cycles=length), seed=0)
    assert all(last[2].values()) and not any(last[3].values())
    *_, last = episode(make_sisl("multiwalker", max_cycles=length - 1), seed=0)
    assert not any(last[2].values()) and all(last[3].values())


def test_the_state_is_defined_after_a_walker_was_removed() -> None:
    env = make_sisl("multiwalker", terminate_on_fall=False)
    env.reset(seed=0)
    game = env.env.env
    before = env.state()
    env.env.env.fallen_walkers[1] = True
    _, _, terminated, truncated, _ = env.step(idle_actions(env))
    assert terminated == {"walker_0": False, "walker_1": True, "walker_2": False} and not any(truncated.values())
    assert env.agents == ["walker_0", "walker_2"] and game.walkers[1].hull is None
    state = env.state()
    assert state.shape == before.shape and state.dtype == before.dtype == np.float32
    assert before[24:48].any() and not state[24:48].any()
    np.testing.assert_array_equal(state[:24], np.float32(game.walkers[0].get_observation()))
    np.testing.assert_array_equal(state[48:72], np.float32(game.walkers[2].get_observation()))
    np.testing.assert_array_equal(state[72], np.float32(game.package.position.x))


def test_multiwalker_wins_at_the_right_end() -> None:
    env = make_sisl("multiwalker")
    env.reset(seed=0)
    package = env.env.env.package
    package.position = (200 * 14 / 30, package.position.y + 5)  # in the air, past the end of the terrain
    _, _, terminated, _, infos = env.step(idle_actions(env))
    assert all(terminated.values()) and {info["win"] for info in infos.values()} == {1.0}


def test_pursuit_wins_when_all_evaders_are_caught_and_is_truncated_otherwise() -> None:
    env = make_sisl("pursuit", n_evaders=1, n_catch=1, surround=False, freeze_evaders=True, max_cycles=2)
    game = env.env.env
    for caught in (True, False):
        env.reset(seed=0)
        game.evader_layer.set_position(0, 0, 0)
        game.pursuer_layer.set_position(3, *((0, 0) if caught else (15, 15)))
        for _ in range(1 if caught else 2):
            _, _, terminated, truncated, infos = env.step(idle_actions(env))
        assert set(terminated.values()) == {caught} and set(truncated.values()) == {not caught}
        assert {info["win"] for info in infos.values()} == {float(caught)}


def test_pursuit_observations_are_flattened() -> None:
    layout = JointEnv(make_sisl("pursuit")).layout
    assert layout.image_shape is None and layout.obs_sizes == (7 * 7 * 3,) * 8


@pytest.mark.parametrize("task", MODULES)
def test_closing_does_not_affect_other_instances_and_no_window_is_opened(task: str) -> None:
    import pygame

    first, second = (make_sisl(task, render_mode="rgb_array") for _ in range(2))
    for env in (first, second):
        env.reset(seed=0)
        env.step(idle_actions(env))
    image = first.render()
    second.render()
    second.close()
    np.testing.assert_array_equal(first.render()[200:], image[200:])  # multiwalker's lidar changes in each image
    assert image.dtype == np.uint8 and image.ndim == 3 and image.std() > 10
    assert not pygame.display.get_init()
    assert make_sisl(task).render() is None


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("multiwalker", {"n_walker": 2}, "sisl/multiwalker has no option 'n_walker'. Did you mean 'n_walkers'"),
        ("multiwalker", {"n_walkers": 0}, "n_walkers=0 is out of range: give an integer >= 1"),
        ("multiwalker", {"n_walkers": 2.0}, "n_walkers=2.0 is out of range: give an integer"),
        ("multiwalker", {"angle_noise": -1}, "angle_noise=-1 is out of range: give a number >= 0"),
        ("multiwalker", {"shared_reward": "no"}, "shared_reward='no' is unknown"),
        ("pursuit", {"render_mode": "human"}, "render_mode='human' is unknown. Choose one of None, rgb_array"),
        ("pursuit", {"constraint_window": 1.5}, "constraint_window=1.5 is out of range: give a number from 0 to 1"),
        ("pursuit", {"obs_range": 6}, "obs_range=6 is even"),
        ("pursuit", {"n_evaders": 90}, "n_evaders=90 is too many for 16 x 16 cells: give at most 57"),
        ("pursuit", {"constraint_window": 0}, "n_pursuers=8 is too many for 0 x 0 cells"),
        ("pursuit", {"catch_reward": "5"}, "catch_reward='5' is out of range: give a number"),
    ],
)
def test_invalid_options_are_rejected(task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sisl(task, **options)


def test_out_of_range_actions_are_rejected() -> None:
    env = make_sisl("pursuit")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"agent 'pursuer_0': action 5 is out of range \(choices: 5"):
        env.step(dict.fromkeys(env.agents, 5))
