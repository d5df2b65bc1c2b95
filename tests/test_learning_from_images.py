"""Agents learn from image observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl import JointPolicy, MATConfig

pytestmark = pytest.mark.usefixtures("ray_cluster")

SIDE, LENGTH = 16, 4


class WhereIsTheSpot(ParallelEnv):
    """Each of two agents observes a noisy image with a bright spot and must name the spot's quarter of the image.

    The spot's position within the quarter is random, so that no single pixel determines the answer.
    """

    metadata = {"name": "where_is_the_spot", "render_modes": []}

    def __init__(self) -> None:
        self.possible_agents = ["a", "b"]
        self.agents: list[str] = []
        self._observation_space = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
        self._action_space = spaces.Discrete(4)
        self.rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_space

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents, self.count = self.possible_agents[:], 0
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        rewards = {agent: float(actions[agent] == self.quarter[agent]) for agent in self.agents}
        self.count += 1
        is_over, acting = self.count == LENGTH, self.agents
        observations = self._observe()
        self.agents = [] if is_over else acting
        ends = dict.fromkeys(acting, False), dict.fromkeys(acting, is_over)
        return observations, rewards, *ends, {agent: {} for agent in acting}

    def state(self) -> np.ndarray:
        return np.array([self.count], np.float32)

    def _observe(self) -> dict[str, np.ndarray]:
        images = {}
        self.quarter = {agent: int(self.rng.integers(4)) for agent in self.possible_agents}
        for agent, quarter in self.quarter.items():
            image = self.rng.integers(128, size=(SIDE, SIDE, 1), dtype=np.uint8)
            half = SIDE // 2
            top, left = self.rng.integers(half - 2, size=2) + np.array([quarter // 2, quarter % 2]) * half
            image[top : top + 3, left : left + 3] = 255
            images[agent] = image
        return images


def config(**network: Any) -> MATConfig:
    return (
        MATConfig()
        .environment(WhereIsTheSpot)
        .training(train_batch_size_per_learner=512, num_epochs=5, lr=1e-3, gamma=0.0)
        .network(embed_dim=32, **network)
        .debugging(seed=0)
    )


def test_mat_learns_from_images(tmp_path: Path) -> None:
    algo = config().build_algo()
    for _ in range(80):
        mean_return = algo.train()["env_runners"]["episode_return_mean"]
        if mean_return >= 0.97 * LENGTH:
            break
    path = algo.save_to_path(tmp_path)
    algo.stop()
    assert mean_return >= 0.97 * LENGTH  # random guessing reaches a quarter of it

    # The exported policy takes the agents' own images.
    policy, env = JointPolicy.from_checkpoint(path), WhereIsTheSpot()
    assert policy.network.config.image_shape == (SIDE, SIDE, 1)
    observations, _ = env.reset(seed=1)
    rewards: list[float] = []
    for _ in range(50):
        observations, reward, *_ = env.step(policy.act(observations))
        env.agents = env.possible_agents
        rewards += reward.values()
    assert np.mean(rewards) > 0.95


def test_custom_layers_and_a_global_state() -> None:
    algo = config(conv_filters=[[4, 4, 4]]).joint_env(global_state=True).build_algo()
    algo.train()
    module = algo.get_module()
    network = module.network
    assert network.encoder.image.out_features == 4 * 4 * 4
    assert (network.config.obs_dim, network.config.state_dim) == (SIDE * SIDE + 2, 1)
    layout = module.observation_space.layout
    arrays = layout.observe({agent: np.full((SIDE, SIDE, 1), 255, np.uint8) for agent in "ab"}, state=[0.5])
    values = {}
    for state in (0.5, 1.0):
        arrays["state"][:] = state
        values[state] = module.compute_values({"obs": {k: torch.as_tensor(v)[None] for k, v in arrays.items()}})
    assert not torch.equal(values[0.5], values[1.0])  # fractional states are not truncated
    algo.stop()


def test_invalid_layers_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"conv_filters=\[\[4, 4\]\] is not"):
        config(conv_filters=[[4, 4]]).build_algo()
    with pytest.raises(ValueError, match="conv_filters has no effect unless all agents"):
        config(conv_filters=[[4, 4, 4]]).environment("coordination/distinct_choice").build_algo()
    with pytest.raises(ValueError, match=r"image_shape=\(16, 16, 1\) is too small for conv_filters"):
        config(conv_filters=[[4, 8, 4], [8, 4, 2]]).build_algo()
