"""Small environments for tests; each parameter is a behaviour of real environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

Dicts = tuple[dict, dict, dict, dict, dict]


class ToyTeam(ParallelEnv):
    """Agents with random observations; all other behaviour is configurable.

    Args:
        action_spaces: One space per agent; agents are named a, b, c, ...
        obs_sizes: The size of each agent's observation; 2 by default.
        deaths: Agent -> step at which it terminates.
        absent: Agents that are missing at reset and join with the first step.
        length: The step at which living agents are truncated (or, if `terminates`, terminated).
        masks: "info" or "observation" to provide action masks there, in which action `step % n` is forbidden.
        rewards: (agent, step) -> reward; the agent's index by default.
        dtype: The dtype of observations.
        spoil: (results, step) -> None to change the five results of a step in place, or replacements.
    """

    metadata = {"name": "toy_team", "render_modes": ["rgb_array"]}

    def __init__(
        self,
        action_spaces: list[spaces.Space] | None = None,
        *,
        obs_sizes: list[int] | None = None,
        deaths: dict[str, int] | None = None,
        absent: tuple[str, ...] = (),
        length: int = 6,
        terminates: bool = False,
        masks: str | None = None,
        rewards: Callable[[str, int], Any] | None = None,
        dtype: Any = np.float32,
        spoil: Callable[[Dicts, int], Any] | None = None,
        infos: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ):
        own_spaces = action_spaces if action_spaces is not None else [spaces.Discrete(3), spaces.Discrete(3)]
        self.possible_agents = [chr(ord("a") + i) for i in range(len(own_spaces))]
        sizes = obs_sizes or [2] * len(own_spaces)
        boxes = [spaces.Box(-np.inf, np.inf, (size,), dtype) for size in sizes]
        self.sizes = dict(zip(self.possible_agents, sizes, strict=True))
        self.actions = dict(zip(self.possible_agents, own_spaces, strict=True))
        self.seen: dict[str, spaces.Space] = dict(zip(self.possible_agents, boxes, strict=True))
        if masks == "observation":
            for agent, box in zip(self.possible_agents, boxes, strict=True):
                mask = spaces.MultiBinary(int(self.actions[agent].n))
                self.seen[agent] = spaces.Dict({"observations": box, "action_mask": mask})
        self.deaths, self.absent, self.length, self.terminates = deaths or {}, absent, length, terminates
        self.masks, self.rewards, self.dtype, self.spoil = masks, rewards, dtype, spoil
        self.infos = infos or {}
        self.render_mode = render_mode
        self.agents: list[str] = []
        self.taken: list[dict[str, Any]] = []
        self.rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Space:
        return self.seen[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.actions[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.count, self.taken = 0, []
        self.agents = [agent for agent in self.possible_agents if agent not in self.absent]
        return self._observe(self.agents), self._infos(self.agents)

    def step(self, actions: dict[str, Any]) -> Dicts:
        self.count += 1
        self.taken.append(actions)
        acting = [agent for agent in self.agents if self.deaths.get(agent, self.count) >= self.count]
        over = self.count >= self.length
        terminated = {a: self.deaths.get(a) == self.count or (over and self.terminates) for a in acting}
        truncated = {a: over and not terminated[a] for a in acting}
        newcomers = [a for a in self.absent if self.count == 1]
        present = [a for a in self.possible_agents if a in acting or a in newcomers]
        terminated |= dict.fromkeys(newcomers, False)
        truncated |= dict.fromkeys(newcomers, False)
        self.agents = [a for a in present if not (terminated[a] or truncated[a])]
        index = self.possible_agents.index
        rewards = {a: self.rewards(a, self.count) if self.rewards else float(index(a)) for a in present}
        results = (self._observe(present), rewards, terminated, truncated, self._infos(present))
        if self.spoil is not None:
            changed = self.spoil(results, self.count)
            return results if changed is None else changed
        return results

    def render(self) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)

    def state(self) -> np.ndarray:
        return np.arange(3.0) + self.count

    def _mask(self, agent: str) -> np.ndarray:
        mask = np.ones(int(self.actions[agent].n), np.int8)
        mask[self.count % len(mask)] = 0
        return mask

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        observations: dict[str, Any] = {}
        for agent in agents:
            observations[agent] = self.rng.normal(size=self.sizes[agent]).astype(self.dtype)
            if self.masks == "observation":
                observations[agent] = {"observations": observations[agent], "action_mask": self._mask(agent)}
        return observations

    def _infos(self, agents: list[str]) -> dict[str, dict[str, Any]]:
        extra = {a: {"action_mask": self._mask(a)} if self.masks == "info" else {} for a in agents}
        return {agent: {**extra[agent], **self.infos} for agent in agents}


class TakingTurns(MultiAgentEnv):
    """Agents x, y and z act in turn; the observation is the number of steps, and only y is rewarded, with 1 per action.

    Args:
        config: `length`: steps per episode; `end`: "truncated" or "terminated"; `spoil`: as in ToyTeam.
    """

    def __init__(self, config: dict[str, Any] | None = None):
        super().__init__()
        self.config = {"length": 5, "end": "truncated", "spoil": None, **(config or {})}
        self.agents = self.possible_agents = ["x", "y", "z"]
        self.observation_spaces = {a: spaces.Box(0.0, np.inf, (1,), np.float32) for a in self.agents}
        self.action_spaces = {a: spaces.Discrete(2) for a in self.agents}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.count, self.taken = 0, []
        return self._observe(), {}

    def step(self, action_dict: dict[str, int]) -> Any:
        self.count += 1
        self.taken.append(action_dict)
        over = self.count == self.config["length"]
        end = self.config["end"]
        results: Dicts = (
            self._observe(),
            {agent: 1.0 for agent in action_dict if agent == "y"},
            {"__all__": over and end == "terminated"},
            {"__all__": over and end == "truncated"},
            {},
        )
        spoil = self.config["spoil"]
        changed = spoil(results, self.count) if spoil else None
        return results if changed is None else changed

    def _observe(self) -> dict[str, np.ndarray]:
        return {self.agents[self.count % 3]: np.array([self.count], np.float32)}
