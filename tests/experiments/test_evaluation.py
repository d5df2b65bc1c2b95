"""A greedy evaluation depends on policy, environment and seed, not on the number of parallel environments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_batch import ToyBatch

from rllib_seqmarl import JointPolicy
from rllib_seqmarl.envs import JointEnv, TeamLayout
from rllib_seqmarl.envs.batch_env import JointBatchEnv
from rllib_seqmarl.envs.joint_env_creator import JointEnvCreator
from rllib_seqmarl.envs.single_team import SingleTeam
from rllib_seqmarl.envs.vector_env import JointVectorEnv
from rllib_seqmarl.experiments.evaluation import Evaluation, evaluate, policy_env
from rllib_seqmarl.policies import ActionSpec, NetworkConfig, SequencePolicy


def some_policy(layout: TeamLayout) -> JointPolicy:
    torch.manual_seed(0)
    network = SequencePolicy(NetworkConfig(layout.obs_dim, ActionSpec("discrete", layout.nvec), embed_dim=8))
    for parameter in network.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return JointPolicy(network, layout, None, {"normalize_actions": True, "clip_actions": False})


def assert_same(together: Evaluation, alone: Evaluation) -> None:
    np.testing.assert_array_equal(together.team_returns, alone.team_returns)
    np.testing.assert_array_equal(together.lengths, alone.lengths)
    for agent, returns in alone.agent_returns.items():
        np.testing.assert_array_equal(together.agent_returns[agent], returns)


@pytest.mark.parametrize("episodes", [1, 7])
def test_parallel_episodes_equal_sequential_ones(episodes: int) -> None:
    create = JointEnvCreator("mpe/simple_spread")
    options = {"max_cycles": 5, "render_mode": "rgb_array"}
    one, three = create.make_vector(1, options), create.make_vector(3, options)
    policy = some_policy(one.layout)
    alone = evaluate(policy, one, episodes, seed=5, draw=2)
    together = evaluate(policy, three, episodes, seed=5, draw=1)
    assert_same(together, alone)
    assert len(alone.frames) == sum(alone.lengths[:2] + 1)
    assert len(together.frames) == alone.lengths[0] + 1
    for played, same in zip(together.frames, alone.frames, strict=False):
        assert np.array_equal(played.picture, same.picture)
        assert (played.headline, played.agents) == (same.headline, same.agents)
    assert together.frames[2].headline.startswith("episode 1 | step 2 | reward ")
    assert [text.partition(": ")[0] for text in together.frames[2].agents] == list(one.layout.agents)
    assert episodes == 1 or alone.team_returns.std() > 0


def test_parallel_episodes_of_a_batched_simulator_equal_sequential_ones() -> None:
    one = JointVectorEnv([JointEnv(SingleTeam(ToyBatch(1)))])
    policy = some_policy(one.layout)
    alone, together = (evaluate(policy, env, 8, seed=3) for env in (one, JointBatchEnv(ToyBatch(3))))
    assert_same(together, alone)
    np.testing.assert_array_equal(together.wins, alone.wins)
    assert len(set(alone.lengths)) > 1 and len(alone.wins) == 8


def test_another_environment_gets_none_of_the_options_of_training() -> None:
    layout = JointEnvCreator("coordination/distinct_choice").make_vector(1, {"n_agents": 3}).layout
    policy = some_policy(layout)
    policy.deployment |= {"env": "multitask/mixture", "env_config": {"tasks": ["a", "b"]}, "joint_options": {}}
    policy.deployment["env_config_left_out"] = []
    env = policy_env(policy, "coordination/distinct_choice", {"n_agents": 3})
    assert env.layout.agents == layout.agents
    policy.deployment |= {"env": "coordination/distinct_choice", "env_config": {"n_agents": 3}}
    for name in (None, "coordination/distinct_choice"):
        assert policy_env(policy, name).layout.n_agents == 3
