"""Tests that our MPE environments match mpe2's own."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mpe2")

from rllib_seqmarl.envs.suites.mpe import SUITE, make_mpe

MODULES = {
    "simple": "simple_v3",
    "simple_spread": "simple_spread_v3",
    "simple_reference": "simple_reference_v3",
    "simple_speaker_listener": "simple_speaker_listener_v4",
    "simple_formation": "simple_formation_v1",
    "simple_line": "simple_line_v1",
    "collect_treasure": "collect_treasure_v1",
}


@pytest.mark.parametrize("continuous_actions", [False, True])
@pytest.mark.parametrize("task", SUITE.tasks)
def test_steps_match_mpe2s_parallel_env(task: str, continuous_actions: bool) -> None:
    options: dict[str, Any] = {"max_cycles": 6, "continuous_actions": continuous_actions}
    ours = make_mpe(task, **options)
    theirs = importlib.import_module(f"mpe2.{MODULES[task]}").parallel_env(**options)
    rng = np.random.default_rng(0)
    for seed in (3, None):
        _assert_same(ours.reset(seed=seed), theirs.reset(seed=seed))
        while theirs.agents:
            actions = {}
            for agent in theirs.agents:
                space = theirs.action_space(agent)
                low_and_high = (-0.1, 1.1)  # mpe2 clips what is out of bounds
                actions[agent] = (
                    rng.uniform(*low_and_high, space.shape).astype(np.float32)
                    if continuous_actions
                    else int(rng.integers(space.n))
                )
            _assert_same(ours.step(actions), theirs.step(actions))
            np.testing.assert_array_equal(ours.state(), theirs.state())
            assert ours.agents == theirs.agents


def _assert_same(ours: tuple[dict, ...], theirs: tuple[dict, ...]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        for agent in our:
            np.testing.assert_array_equal(our[agent], their[agent])


def test_task_specific_options_are_passed_on() -> None:
    spread = make_mpe("simple_spread", N=4, num_agent_neighbors=1, num_landmark_neighbors=2)
    assert len(spread.possible_agents) == 4
    # two entries each: velocity, position, two landmarks, one agent and its message
    assert spread.observation_space("agent_0").shape == (12,)
    treasure = make_mpe("collect_treasure", num_collectors=2, num_deposits=3)
    assert treasure.possible_agents == ["collector_0", "collector_1", "deposit_0", "deposit_1", "deposit_2"]


def test_tasks_that_terminate_on_success_report_wins() -> None:
    for max_cycles in (1, 2):
        env = make_mpe("simple_spread", N=1, terminate_on_success=True, max_cycles=max_cycles)
        _, infos = env.reset(seed=0)
        assert "win" not in infos["agent_0"]
        env.env.world.agents[0].state.p_pos = env.env.world.landmarks[0].state.p_pos.copy()
        _, _, terminated, truncated, infos = env.step({"agent_0": 0})
        assert (terminated["agent_0"], truncated["agent_0"]) == (max_cycles > 1, max_cycles == 1)
        assert infos["agent_0"]["win"] == 1.0
    env.env.world.agents[0].state.p_pos = np.array([9.0, 9.0])
    env.reset(seed=0)
    env.step({"agent_0": 0})
    _, _, terminated, truncated, infos = env.step({"agent_0": 0})
    assert (terminated["agent_0"], truncated["agent_0"], infos["agent_0"]["win"]) == (False, True, 0.0)


def test_metadata_is_not_shared_between_tasks() -> None:
    spread = make_mpe("simple_spread")
    make_mpe("simple")
    assert spread.metadata["name"] == "simple_spread_v3"


def test_out_of_range_actions_are_rejected() -> None:
    env = make_mpe("simple_spread")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"agent 'agent_0': action 5 is out of range \(choices: 5"):
        env.step(dict.fromkeys(env.agents, 5))


@pytest.mark.parametrize(
    ("task", "option", "value", "message"),
    [
        ("simple_line", "local_ratio", 0.5, "mpe/simple_line has no option 'local_ratio'"),
        ("simple_spread", "n", 3, "mpe/simple_spread has no option 'n'"),
        ("simple_spread", "N", 0, "N=0 is out of range: give an integer >= 1"),
        ("simple_spread", "local_ratio", 1.5, "local_ratio=1.5 is out of range: give a number from 0 to 1"),
        ("simple_spread", "num_agent_neighbors", 0, "num_agent_neighbors=0 is out of range"),
        ("simple", "max_cycles", 2.5, "max_cycles=2.5 is out of range"),
        ("simple", "continuous_actions", "no", "continuous_actions='no' is unknown"),
        ("simple", "render_mode", "rgb", "render_mode='rgb' is unknown"),
        ("collect_treasure", "num_deposits", 7, "num_deposits=7 is out of range: give an integer from 1 to 6"),
    ],
)
def test_invalid_options_are_rejected(task: str, option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mpe(task, **{option: value})
