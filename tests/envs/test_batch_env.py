"""Tests that a batched simulator is equivalent to the same number of single environments."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList
from pettingzoo.test import parallel_api_test
from toy_batch import ToyBatch, Walkers
from vector_steps import assert_same

from rllib_seqmarl.envs import JointEnv, JointEnvError, StepResult, check_joint_env
from rllib_seqmarl.envs.batch_env import JointBatchEnv
from rllib_seqmarl.envs.single_team import SingleTeam
from rllib_seqmarl.envs.vector_env import copy_seeds


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("options", [{}, {"agent_ids": False, "team_reward": "sum", "global_state": True}])
def test_equivalence_to_single_environments(continuous: bool, options: dict[str, Any]) -> None:
    def make() -> JointEnv:
        return JointEnv(SingleTeam(ToyBatch(1, continuous=continuous)), **options)

    ours = JointBatchEnv(ToyBatch(4, continuous=continuous), **options)
    theirs = SyncVectorEnv([make] * 4, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    ours, theirs = DictInfoToList(ours), DictInfoToList(theirs)
    assert_same(ours.reset(seed=5), theirs.reset(seed=copy_seeds(5, 4)))
    theirs.action_space.seed(0)
    ended = 0
    for _ in range(30):
        actions = theirs.action_space.sample()
        actions[:, 1] *= False  # the agent that may be dead takes its first choice, as JointEnv would
        our_result, their_result = ours.step(actions), theirs.step(actions)
        ended += int(np.sum(our_result[2] | our_result[3]))
        assert_same(our_result, their_result)
    assert ended > 10


def test_invalid_options_are_rejected() -> None:
    with pytest.raises(ValueError, match="team_reward='max' is unknown. Choose one of mean, sum"):
        JointBatchEnv(ToyBatch(2), team_reward="max")
    batch = ToyBatch(2)
    batch.state_dim = 0
    with pytest.raises(JointEnvError, match="has no global state. Set global_state=False"):
        JointBatchEnv(batch, global_state=True)


@pytest.mark.parametrize("name", [object(), 1.5, [1]])
def test_the_check_refuses_names_that_training_refuses(name: Any) -> None:
    def batch() -> Walkers:
        walkers = Walkers(2)
        walkers.agents = (name, "b")
        return walkers

    message = r"Walkers: agent .*: the name .* is a \w+: use a string, an integer or a tuple of these"
    with pytest.raises(JointEnvError, match=message):
        JointBatchEnv(batch())
    with pytest.raises(JointEnvError, match=message):
        check_joint_env(batch())


class WinsNothing(Walkers):
    def step(self, actions: np.ndarray, reset_mask: np.ndarray) -> StepResult:
        return super().step(actions, reset_mask)._replace(wins=np.full(self.num_envs, np.nan, np.float32))


def test_wins_are_finite() -> None:
    env = JointBatchEnv(WinsNothing(2, length=1))
    env.reset(seed=0)
    with pytest.raises(JointEnvError, match="WinsNothing, step 1, environment 0 of 2: its win is nan"):
        env.step(np.zeros(env.action_space.shape, env.action_space.dtype))
    with pytest.raises(JointEnvError, match="return finite wins at the end of an episode. At step 1.*In copy 0, it is"):
        check_joint_env(WinsNothing(2, length=1))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("observation", "toys, step 2, environment 3 of 4: agent 'c': its observation is inf at entry 1"),
        ("reward", "toys, step 2, environment 3 of 4: agent 'c': its reward is nan"),
        ("mask", "toys, step 2, environment 3 of 4: agent 'a': its action mask forbids every action"),
    ],
)
def test_defects_are_reported(what: str, message: str) -> None:
    env = JointBatchEnv(ToyBatch(4, spoil={2: what}), name="toys")
    env.reset(seed=0)
    env.step(np.zeros((4, 3), np.int64))
    with pytest.raises(JointEnvError, match=message):
        env.step(np.zeros((4, 3), np.int64))


def test_earlier_arrays_are_unchanged() -> None:
    env = JointBatchEnv(ToyBatch(2))
    first, _ = env.reset(seed=0)
    copied = {key: array.copy() for key, array in first.items()}
    env.step(np.zeros((2, 3), np.int64))
    for key in copied:
        np.testing.assert_array_equal(first[key], copied[key])


@pytest.mark.parametrize("continuous", [False, True])
def test_a_batch_of_one_is_a_parallel_env(continuous: bool) -> None:
    env = SingleTeam(ToyBatch(1, continuous=continuous))
    check_joint_env(env)
    if continuous:  # PettingZoo's test ignores action masks
        parallel_api_test(env, num_cycles=40)


def test_dead_agents_stay_and_are_rewarded() -> None:
    joint = JointEnv(SingleTeam(ToyBatch(1)))
    joint.reset(seed=0)
    joint.step(np.zeros(3, np.int64))
    arrays, _, terminated, truncated, info = joint.step(np.zeros(3, np.int64))
    assert not (terminated or truncated)
    assert arrays["alive"].tolist() == [1, 0, 1]
    assert arrays["action_mask"][1].tolist() == [1, 0, 0]
    assert not arrays["observations"][1, :3].any()
    assert info["agent_rewards"].tolist() == [0.0, 1.0, 2.0]
    assert "agent_terminateds" not in info  # its return continues with the team's


def test_vector_entry_point_makes_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from rllib_seqmarl.envs import catalog
    from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator
    from rllib_seqmarl.envs.suite import Suite

    def make_batch(task: str, num_envs: int, *, continuous: bool = False) -> ToyBatch:
        return ToyBatch(num_envs, continuous=continuous)

    suite = Suite("toys", {"counting": "Counts."}, partial(SingleTeam, ToyBatch(1)), make_batch)
    monkeypatch.setitem(catalog.CATALOG, "toys/counting", catalog.EnvEntry(suite, "counting"))
    env = JointEnvCreator("toys/counting", agent_ids=False)({"num_envs": 5, "continuous": True})
    assert isinstance(env, JointBatchEnv)
    assert (env.num_envs, env.name, env.batch.continuous) == (5, "toys/counting", True)
    assert env.get_attr("layout") == (env.layout,) * 5
    assert not env.layout.agent_ids
    with pytest.raises(ValueError, match="toys/counting has no option 'continous'. Did you mean 'continuous'"):
        JointEnvCreator("toys/counting")({"num_envs": 5, "continous": True})
