"""The parts that the ParallelEnvs of this package share."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.agent_spaces import AgentID, Space


class BaseParallelEnv(ParallelEnv):
    """A ParallelEnv with fixed spaces.

    Args:
        agents: Names of all agents.
        observation_spaces, action_spaces: One per agent, in the same order.
        render_mode: None or "rgb_array".
    """

    def __init__(
        self,
        agents: Iterable[AgentID],
        observation_spaces: Iterable[Space],
        action_spaces: Iterable[Space],
        render_mode: str | None,
    ):
        self.possible_agents: list[Any] = list(agents)
        self.agents: list[Any] = []
        self.observation_spaces = dict(zip(self.possible_agents, observation_spaces, strict=True))
        self.action_spaces = dict(zip(self.possible_agents, action_spaces, strict=True))
        self.render_mode = render_mode

    def observation_space(self, agent: AgentID) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: AgentID) -> Any:
        return self.action_spaces[agent]

    def legal_action(self, agent: AgentID, action: Any) -> Any:
        """Clip a continuous action to its bounds, or check a discrete one, as PettingZoo's wrappers do."""
        space = self.action_spaces[agent]
        if isinstance(space, spaces.Box):
            return np.clip(action, space.low, space.high)
        assert isinstance(space, spaces.Discrete)
        if not 0 <= action < space.n:
            raise ValueError(f"agent {agent!r}: action {action} is out of range (choices: {space.n}, from 0).")
        return action

    def end_step(
        self, observations: dict, rewards: dict, terminated: bool, truncated: bool, infos: dict
    ) -> tuple[dict, dict, dict, dict, dict]:
        """Return the results of a step of a team whose episode ends for all agents at once."""
        agents = self.agents
        if terminated or truncated:
            self.agents = []
        return observations, rewards, dict.fromkeys(agents, terminated), dict.fromkeys(agents, truncated), infos
