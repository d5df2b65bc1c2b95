"""PettingZoo tasks in which agents move simultaneously although they are implemented turn by turn."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rllib_seqmarl.envs.parallel_env import BaseParallelEnv

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints a greeting on import


class PettingZooTurns(BaseParallelEnv):
    """All turns of a PettingZoo task as one step, like its `parallel_env` but without wrappers.

    The wrappers compute every observation twice, which dominates the time if agents observe images. Actions are checked
    or clipped as in the wrappers.

    Args:
        env: The task's `raw_env`.
        render_mode: None or "rgb_array".
    """

    def __init__(self, env: Any, render_mode: str | None = None):
        agents = env.possible_agents
        super().__init__(agents, map(env.observation_space, agents), map(env.action_space, agents), render_mode)
        self.env = env
        self.metadata = env.metadata

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self.env.reset(seed=seed, options=options)
        self.agents = self.env.agents[:]
        return self._observe(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        env, agents = self.env, self.agents
        rewards = dict.fromkeys(agents, 0.0)
        for agent in agents:
            env.step(self.legal_action(agent, actions[agent]))
            for other in agents:
                rewards[other] += env.rewards[other]
        terminated = {agent: self._has_terminated(agent) for agent in agents}
        truncated = {agent: self._is_truncated(agent) for agent in agents}
        observations = self._observe(agents)
        self.agents = [agent for agent in agents if not (terminated[agent] or truncated[agent])]
        info = {} if self.agents else self._last_info()
        while len(env.agents) > len(self.agents):
            env.step(None)  # removes the current agent, whose episode has ended
        return observations, rewards, terminated, truncated, {agent: dict(info) for agent in agents}

    def render(self) -> np.ndarray | None:
        """Render an image, uint8 (height, width, 3), or None without render_mode="rgb_array"."""
        return None if self.render_mode is None else self.env.render()

    def state(self) -> np.ndarray:
        return self.env.state()

    # There is no `close`: PettingZoo's would quit pygame for all other environments in the process.

    # Overridden by tasks.

    def _observe(self, agents: Iterable[str]) -> dict[str, np.ndarray]:
        return {agent: self.env.observe(agent) for agent in agents}

    def _has_terminated(self, agent: str) -> bool:
        return bool(self.env.terminations[agent])

    def _is_truncated(self, agent: str) -> bool:
        return bool(self.env.truncations[agent])

    def _last_info(self) -> dict[str, Any]:
        """Entries of the infos at the end of an episode."""
        return {}
