"""Tests that JointVectorEnv is equivalent to gymnasium's SyncVectorEnv."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList
from toy_envs import ToyTeam
from vector_steps import assert_same

from rllib_seqmarl.envs import JointEnvError, check_joint_env, make_joint_env
from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator
from rllib_seqmarl.envs.vector_env import JointVectorEnv, copy_seeds

TASKS = {
    "mpe/simple_spread": {"max_cycles": 4},
    "mpe/simple_speaker_listener": {"max_cycles": 3},
    "coordination/distinct_choice": {"max_cycles": 5},
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_equivalence_to_sync_vector_env(task: str, num_envs: int) -> None:
    make = partial(make_joint_env, task, TASKS[task])
    ours = JointVectorEnv([make() for _ in range(num_envs)])
    theirs = SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    ours, theirs = DictInfoToList(ours), DictInfoToList(theirs)

    assert_same(ours.reset(seed=5), theirs.reset(seed=copy_seeds(5, num_envs)))
    theirs.action_space.seed(0)
    for _ in range(14):
        actions = theirs.action_space.sample()
        assert_same(ours.step(actions), theirs.step(actions))
    ours.close()
    theirs.close()


def test_earlier_arrays_are_unchanged() -> None:
    env = JointVectorEnv([make_joint_env("mpe/simple_spread")])
    first, _ = env.reset(seed=0)
    copied = first["observations"].copy()
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(first["observations"], copied)


def test_a_reset_leaves_earlier_infos_unchanged() -> None:
    env = JointVectorEnv([make_joint_env("coordination/distinct_choice", {"max_cycles": 1})])
    env.reset(seed=0)
    *_, infos = env.step(env.action_space.sample())
    env.reset()
    assert infos["_episode_agent_returns"].all()


def test_one_environment_twice_is_rejected() -> None:
    team = ToyTeam()
    with pytest.raises(JointEnvError, match="toy_team: its creator returned the same environment twice. Make a"):
        JointEnvCreator(lambda config: team).make_vector(2, {})
    with pytest.raises(JointEnvError, match="toy_team: its creator returned the same environment twice"):
        check_joint_env(lambda config: team)


def test_different_layouts_are_rejected() -> None:
    envs = [make_joint_env("coordination/distinct_choice", {"n_agents": n}) for n in (2, 3)]
    with pytest.raises(ValueError, match="same agents, spaces and options"):
        JointVectorEnv(envs)
