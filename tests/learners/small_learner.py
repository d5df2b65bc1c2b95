"""A learner without an algorithm, and rollouts in which agents die, for the tests in this folder."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_seqmarl import MATConfig
from rllib_seqmarl.algorithms.joint_ppo_config import JointPPOConfig
from rllib_seqmarl.learners.joint_ppo_torch_learner import JointPPOTorchLearner
from rllib_seqmarl.rollouts import Rollout

T, B, N = 12, 3, 2
SPACES = (
    gym.spaces.Dict(
        {
            "observations": gym.spaces.Box(-np.inf, np.inf, (N, 4), np.float32),
            "alive": gym.spaces.MultiBinary(N),
        }
    ),
    gym.spaces.MultiDiscrete([3] * N),
)


def make_learner(config: JointPPOConfig | None = None, **options: Any) -> JointPPOTorchLearner:
    """Create a learner with fixed initial weights and the given config options, by default of a small MAT."""
    torch.manual_seed(0)
    config = config or MATConfig().network(embed_dim=8)
    for key, value in options.items():
        setattr(config, key, value)
    return config.build_learner(spaces={DEFAULT_MODULE_ID: SPACES, "__env__": (None, None), "__env_single__": SPACES})


def make_rollout(seed: int) -> Rollout:
    """Create a rollout in which agents die but collect rewards, some terminate early, and episodes end and restart."""
    rng = np.random.default_rng(seed)
    is_step, terminated = np.ones((T, B), bool), np.zeros((T, B), bool)
    alive, earns = np.ones((T + 1, B, N), np.int8), np.ones((T, B, N), bool)
    agent_terminated = np.zeros((T, B, N), bool)
    for b in range(B):
        dies, ends, t = rng.integers(0, 6, N), int(rng.integers(3, 9)), 0
        alive[: ends + 1, b] = np.arange(ends + 1)[:, None] <= dies
        if b % 2:  # in these environments, death is termination
            earns[: ends + 1, b] = alive[: ends + 1, b]
            for agent in range(N):
                if dies[agent] < ends:
                    agent_terminated[dies[agent], b, agent] = True
        terminated[ends, b] = agent_terminated[ends, b] = True
        if (t := ends + 1) < T:
            is_step[t, b] = False
    rewards = rng.normal(size=(T, B, N)).astype(np.float32) * is_step[..., None]
    team = rewards.mean(-1)
    return Rollout(
        obs={"observations": rng.normal(size=(T + 1, B, N, 4)).astype(np.float32), "alive": alive},
        outputs={
            "actions": rng.integers(0, 3, (T, B, N)),
            "action_logp": np.full((T, B, N), -1.1, np.float32),
            "vf_preds": rng.normal(size=(T, B, N)).astype(np.float32),
        },
        rewards=team.copy(),
        env_rewards=team,
        agent_rewards=rewards,
        terminated=terminated,
        truncated=np.zeros((T, B), bool),
        is_step=is_step,
        agent_terminated=agent_terminated,
        agent_earns=earns,
        infos={},
        lengths_before=np.zeros(B, np.int64),
        episodes_before=np.zeros(B, np.int64),
        env_ids=[f"{b}" for b in range(B)],
        weights_seq_no=0,
        spaces=SPACES,
    )
