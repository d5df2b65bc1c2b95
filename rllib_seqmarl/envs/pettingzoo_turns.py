"""PettingZoo's tasks in which agents move at once, though they are written turn by turn."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.options import check_choice, check_names, check_number

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints a greeting on import


class PettingZooTurns(ParallelEnv):
    """All turns of a PettingZoo task as one step: what its `parallel_env` gives, without its wrappers.

    Those ask every agent twice for its observation, which is most of the time where agents see images. Actions are
    checked, or clipped, as the wrappers do.

    Args:
        env: The task's `raw_env`.
        render_mode: None or "rgb_array".
    """

    def __init__(self, env: Any, render_mode: str | None = None):
        self.env = env
        self.metadata = env.metadata
        self.render_mode = render_mode
        self.possible_agents: list[str] = env.possible_agents[:]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space:
        return self.env.observation_space(agent)

    def action_space(self, agent: str) -> spaces.Space:
        return self.env.action_space(agent)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self.env.reset(seed=seed, options=options)
        self.agents = self.env.agents[:]
        return self._observe(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        env, agents = self.env, self.agents
        rewards = dict.fromkeys(agents, 0.0)
        for agent in agents:
            env.step(self._legal_action(agent, actions[agent]))
            for other in agents:
                rewards[other] += env.rewards[other]
        terminated = {agent: self._has_terminated(agent) for agent in agents}
        truncated = {agent: self._is_truncated(agent) for agent in agents}
        observations = self._observe(agents)
        self.agents = [agent for agent in agents if not (terminated[agent] or truncated[agent])]
        info = {} if self.agents else self._last_info()
        while len(env.agents) > len(self.agents):
            env.step(None)  # whose turn it is has ended, and leaves
        return observations, rewards, terminated, truncated, {agent: dict(info) for agent in agents}

    def render(self) -> np.ndarray | None:
        """A picture, uint8 (height, width, 3), or None without render_mode="rgb_array"."""
        return None if self.render_mode is None else self.env.render()

    def state(self) -> np.ndarray:
        return self.env.state()

    def close(self) -> None:
        """Nothing is open. PettingZoo's own `close` would end pygame for all other environments of this process."""

    def _legal_action(self, agent: str, action: Any) -> Any:
        space = self.env.action_space(agent)
        if isinstance(space, spaces.Box):
            return np.clip(action, space.low, space.high)
        if not 0 <= action < space.n:
            raise ValueError(f"agent {agent!r}: action {action} is out of range (choices: {space.n}, from 0).")
        return action

    # What tasks differ in.

    def _observe(self, agents: Iterable[str]) -> dict[str, np.ndarray]:
        return {agent: self.env.observe(agent) for agent in agents}

    def _has_terminated(self, agent: str) -> bool:
        return bool(self.env.terminations[agent])

    def _is_truncated(self, agent: str) -> bool:
        return bool(self.env.truncations[agent])

    def _last_info(self) -> dict[str, Any]:
        """Entries of infos at the end of an episode."""
        return {}


def check_package_options(
    owner: str,
    make: Callable[..., Any],
    options: Mapping[str, Any],
    limits: Mapping[str, tuple[float, float | None]],
    others: Iterable[str] = (),
) -> None:
    """Raises ValueError for the first option of `options` that a package's constructor does not have or allow.

    Args:
        owner: What messages call the task.
        make: The constructor. Its defaults tell which kind of value an option takes: a switch, an integer, a number.
        options: What is given.
        limits: The lowest value of a number, and the highest or None.
        others: Options that are not the package's.
    """
    known = {name: option for name, option in inspect.signature(make).parameters.items() if name != "self"}
    check_names(owner, options, [*known, *others])
    for name, value in options.items():
        if name not in known:
            continue
        default = known[name].default
        if name == "render_mode":
            check_choice(name, value, (None, "rgb_array"))
        elif isinstance(default, bool):
            check_choice(name, value, (False, True))
        elif isinstance(default, int | float):
            real = isinstance(default, float) or known[name].annotation in (float, "float")
            check_number(name, value, *limits.get(name, (None, None)), whole=not real)
