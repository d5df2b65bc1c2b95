"""Base class of the rware and lbforaging adapters.

Both packages provide gymnasium environments whose spaces, observations and rewards are tuples or lists with one entry
per agent, and render with pyglet.
"""

import copy
import os
import sys
from typing import Any

import numpy as np

from rllib_seqmarl.envs.parallel_env import BaseParallelEnv


class TupleEnv(BaseParallelEnv):
    """A tuple-based gymnasium environment as a ParallelEnv with individual rewards.

    Args:
        env: The environment. Its `step` only reports that an episode is over; `_has_terminated` tells terminations
            from truncations.
        name: The environment's name, for messages.
        render_mode: None or "rgb_array".
    """

    def __init__(self, env: Any, name: str, render_mode: str | None):
        agents = [f"agent_{i}" for i in range(len(env.action_space))]
        # The tuples repeat one space object; copies let each agent sample from its own random stream.
        super().__init__(
            agents, map(copy.deepcopy, env.observation_space), map(copy.deepcopy, env.action_space), render_mode
        )
        self.env = env
        self.metadata = {"name": name, "render_modes": ["rgb_array"], "render_fps": env.metadata["render_fps"]}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        observations, _ = self.env.reset(seed=seed, options=options)
        self.agents = self.possible_agents[:]
        return dict(zip(self.agents, observations, strict=True)), self._infos()

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        agents = self.agents
        observations, rewards, over, _, _ = self.env.step([actions[agent] for agent in agents])
        terminated = bool(over) and self._has_terminated()
        infos = self._infos()
        if over:
            for info in infos.values():
                info.update(self._final_info())
        own_observations = dict(zip(agents, observations, strict=True))
        own_rewards = dict(zip(agents, map(float, rewards), strict=True))
        return self.end_step(own_observations, own_rewards, terminated, bool(over) and not terminated, infos)

    def render(self) -> np.ndarray | None:
        """Render an image, uint8 (height, width, 3). Without a display this requires EGL (Debian: libegl1, libgl1)."""
        if self.render_mode is None:
            return None
        import pyglet

        if sys.platform == "linux" and not os.environ.get("DISPLAY"):
            pyglet.options["headless"] = True
        return np.ascontiguousarray(self.env.render("rgb_array"))

    def close(self) -> None:
        self.env.close()

    # Hooks for subclasses.

    def _has_terminated(self) -> bool:
        """Return whether an episode that is over was terminated, not truncated."""
        raise NotImplementedError

    def _infos(self) -> dict[str, dict[str, Any]]:
        """Return the agents' infos for the current observations."""
        return {agent: {} for agent in self.possible_agents}

    def _final_info(self) -> dict[str, Any]:
        """Return additional entries for all infos of the last step."""
        return {}
