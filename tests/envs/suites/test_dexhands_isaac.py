"""Tests of the Bi-DexHands adapter and its worker process, against a stand-in with the real interface."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_seqmarl.envs import make_env
from rllib_seqmarl.envs.suites import isaac_worker
from rllib_seqmarl.envs.suites.dexhands_isaac import SUITE, IsaacHands

TASK = "ShadowHandDoorOpenInward"
NO_RESET = np.zeros(3, np.bool_)
COUNT, STEP, FIRST, LAST, DRAW = range(5)  # the stand-in's observation entries


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python interpreter with the stand-in."""
    program = tmp_path_factory.mktemp("bin") / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={Path(__file__).parent}/isaac_stand_in exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return str(program)


def make(python: str, **options: Any) -> IsaacHands:
    return IsaacHands(TASK, 3, **{"python": python, "device": "cpu", "episode_length": 4, **options})


@pytest.fixture(scope="module")
def hands(python: str) -> Iterator[IsaacHands]:
    batch = make(python)
    yield batch
    batch.close()


def pushes(*pushed: float) -> np.ndarray:
    """Actions of two hands in each copy, all zero except the right hand's first."""
    actions = np.zeros((len(pushed), 2, 26), np.float32)
    actions[:, 0, 0] = pushed
    return actions


def test_spaces(hands: IsaacHands) -> None:
    assert hands.agents == ("right_hand", "left_hand")
    assert [space.shape for space in hands.observation_spaces] == [(5,)] * 2
    assert [space.shape for space in hands.action_spaces] == [(26,)] * 2
    assert (hands.state_dim, hands.num_envs, hands.episode_length) == (9, 3, 4)


def test_observations_of_each_hand(hands: IsaacHands) -> None:
    hands.reset([0, 1, 2])
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 26)).astype(np.float32)
    obs = hands.step(actions, NO_RESET).observation
    np.testing.assert_array_equal(obs.observations[..., FIRST], actions[..., 0])
    np.testing.assert_array_equal(obs.observations[..., LAST], actions[..., -1])
    np.testing.assert_allclose(obs.observations[:, 0, COUNT], actions[..., 0].sum(1), rtol=1e-6)
    assert obs.state is not None
    np.testing.assert_array_equal(obs.state[:, :4], obs.observations[:, 0, :4])
    np.testing.assert_array_equal(obs.state[:, 4:], obs.observations[:, 1])
    assert obs.alive.all()


def test_the_time_limit_truncates_and_the_next_step_resets(hands: IsaacHands) -> None:
    hands.reset()
    for step in range(2, 5):
        result = hands.step(pushes(0.5, 0, 0), NO_RESET)
        assert result.truncated.tolist() == [step == 4] * 3
    assert not result.terminated.any()
    np.testing.assert_allclose(result.observation.observations[:, 0, STEP], 0.04)  # the final observation
    np.testing.assert_array_equal(result.rewards, [[1.5, 1.5], [0, 0], [0, 0]])
    reset_mask = np.array([True, False, True])
    result = hands.step(pushes(1, 1, 1), reset_mask)
    np.testing.assert_allclose(result.observation.observations[:, 0, STEP], [0.01, 0.05, 0.01])
    np.testing.assert_array_equal(result.observation.observations[:, 0, FIRST], [0, 1, 0])  # actions are zero in resets
    np.testing.assert_array_equal(result.rewards, [[0, 0], [1, 1], [0, 0]])
    assert result.truncated.tolist() == [False, True, False]


def test_other_ends_terminate_only_their_copy(hands: IsaacHands) -> None:
    hands.reset()
    hands.step(pushes(-1, -1, 0), NO_RESET)
    both = pushes(-1, -1, 0)
    both[0, 1, 0] = -1  # the left hand as well: its copy is over at -3
    result = hands.step(both, NO_RESET)
    assert result.terminated.tolist() == [True, False, False] and not result.truncated.any()
    np.testing.assert_allclose(result.observation.observations[:, 0, COUNT], [-3, -2, 0])
    result = hands.step(pushes(0, -1, 0), np.array([True, False, False]))
    np.testing.assert_allclose(result.observation.observations[:, 0, STEP], [0.01, 0.04, 0.04])
    assert result.truncated.tolist() == [False, True, True]  # the count is also -3, but the time limit takes precedence
    assert not result.terminated.any()


def test_wins_persist_until_the_episode_ends(hands: IsaacHands) -> None:
    hands.reset()
    hands.step(pushes(1, 1, 0), NO_RESET)
    actions = pushes(1, 1, 0)
    actions[0, 1, 0] = 1
    assert hands.step(actions, NO_RESET).wins.tolist() == [1, 0, 0]
    result = hands.step(pushes(-1, 0, 0), NO_RESET)
    assert result.wins.tolist() == [1, 0, 0] and result.truncated.all()
    assert hands.step(pushes(0, 0, 0), np.ones(3, np.bool_)).wins.tolist() == [0, 0, 0]


def test_seeds(hands: IsaacHands) -> None:
    first = hands.reset([5, 6, 7]).observations[:, 0, DRAW]
    following = hands.reset().observations[:, 0, DRAW]
    assert len(set(first.tolist() + following.tolist())) == 6
    np.testing.assert_array_equal(hands.reset([5, 0, 0]).observations[:, 0, DRAW], first)
    np.testing.assert_array_equal(hands.reset().observations[:, 0, DRAW], following)


def test_fingers_act_in_the_order_of_the_hands_actions(python: str) -> None:
    batch = make(python, agents="fingers", episode_length=None)
    assert [space.shape[0] for space in batch.action_spaces] == [8, 3, 3, 3, 4, 5] * 2
    assert batch.agents[0] == "right_palm" and batch.agents[-1] == "left_thumb"
    assert batch.episode_length == 75  # the task's own
    batch.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 12, 8)).astype(np.float32)  # padded to the widest
    obs = batch.step(actions, NO_RESET).observation.observations
    for hand in range(2):
        mine = obs[:, 6 * hand : 6 * hand + 6]
        np.testing.assert_array_equal(mine, np.repeat(mine[:, :1], 6, axis=1))
        np.testing.assert_array_equal(mine[:, 0, FIRST], actions[:, 6 * hand, 0])
        np.testing.assert_array_equal(mine[:, 0, LAST], actions[:, 6 * hand + 5, 4])
    process = batch._process
    batch.close()
    assert process.returncode == 0


def test_a_copy_that_ends_in_its_reset_step_gets_one_more_step(python: str) -> None:
    batch = make(python, episode_length=1)
    batch.reset()
    result = batch.step(pushes(1, 0, 0), NO_RESET)
    np.testing.assert_allclose(result.observation.observations[:, 0, STEP], 0.02)
    assert result.truncated.all()
    batch.close()


def test_make_env(python: str) -> None:
    env = make_env(f"dexhands-isaac/{TASK}", {"python": python, "device": "cpu", "episode_length": 2})
    observations, _ = env.reset(seed=3)
    assert list(observations) == ["right_hand", "left_hand"]
    idle = {agent: np.zeros(26, np.float32) for agent in env.agents}
    _, _, _, truncated, infos = env.step(idle)
    assert truncated == {"right_hand": True, "left_hand": True}
    assert infos["left_hand"]["win"] == 0.0
    env.close()
    with pytest.raises(ValueError, match="Did you mean 'ShadowHandDoorOpenInward'|Unknown environment"):
        make_env("dexhands-isaac/ShadowHandDoorOpenInwards", {"python": python})


def test_a_crashed_worker_is_reported(python: str) -> None:
    batch = make(python, episode_length=100)
    batch.reset()
    actions = pushes(1, 0, 0)
    actions[0, 1, 0] = 1
    with pytest.raises(RuntimeError, match="has exited with status 1"):
        for _ in range(6):
            batch.step(actions, NO_RESET)
    with pytest.raises(RuntimeError, match="has exited"):
        batch.step(actions, NO_RESET)
    batch.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"python": ""}, "python='' is not an executable. Bi-DexHands needs a separate Python"),
        ({"python": "/nowhere/python"}, "python='/nowhere/python' is not an executable"),
        ({"agents": "finger"}, "agents='finger' is unknown. Did you mean 'fingers'"),
        ({"episode_length": 0}, "episode_length=0 is out of range"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"python": sys.executable, **options})


def test_missing_bidexhands_is_explained() -> None:
    with pytest.raises(RuntimeError, match="with status 1; .*Isaac Gym Preview 4"):
        make(sys.executable)


def test_the_worker_is_compatible_with_python_3_8() -> None:
    tree = ast.parse(Path(isaac_worker.__file__).read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported == {"json", "os", "sys", "multiprocessing", "typing", "numpy", "torch", "bidexhands"}


def test_tasks_match_the_published_ones() -> None:
    assert len(SUITE.tasks) == 20
    assert "ShadowHandDoorCloseOutward" in SUITE.tasks and not SUITE.knows("ShadowHand")
