"""An environment of one's own: the team wins if the sum of its choices is even."""

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv
from ray.tune.registry import register_env


class ParityGame(ParallelEnv):
    metadata = {"name": "parity"}

    def __init__(self, n_agents: int = 3) -> None:
        self.possible_agents = self.agents = [f"agent_{i}" for i in range(n_agents)]
        self.observation_spaces = {agent: gym.spaces.Box(0, 1, (1,)) for agent in self.agents}
        self.action_spaces = {agent: gym.spaces.Discrete(2) for agent in self.agents}

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def _observations(self):
        return {agent: np.ones(1, np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions):
        reward, self.agents = float(sum(actions.values()) % 2 == 0), []
        each = self.possible_agents
        return (
            self._observations(),
            dict.fromkeys(each, reward),
            dict.fromkeys(each, True),
            dict.fromkeys(each, False),
            {agent: {} for agent in each},
        )


register_env("parity", lambda config: ParityGame(**config))
