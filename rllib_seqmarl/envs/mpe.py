"""Cooperative tasks of the multi-agent particle environments (Lowe et al. 2017), from the package mpe2.

`env_config` is passed on as keyword arguments: N (simple_spread), max_cycles, local_ratio,
continuous_actions, render_mode, ... Episodes are truncated after `max_cycles` steps and never terminate by
default.
"""

import importlib
import inspect
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from rllib_seqmarl.suggestions import did_you_mean


def make_mpe(module: str, **options: Any) -> ParallelEnv:
    """The ParallelEnv of one mpe2 module, such as "simple_spread_v3".

    Raises:
        ValueError: an option the task does not have; names the nearest it has.
    """
    task = importlib.import_module(f"mpe2.{module}")
    known = [name for name in inspect.signature(task.raw_env.__init__).parameters if name != "self"]
    for option in options:
        if option not in known:
            raise ValueError(
                f"mpe2.{module} has no option {option!r}.{did_you_mean(option, known)} It has: {', '.join(known)}."
            )
    return ParallelMPE(task.raw_env(**options))


class ParallelMPE(ParallelEnv):
    """A task of mpe2, moved by all agents at once.

    mpe2's own `parallel_env` plays the same steps turn by turn through five wrappers, which takes longer than
    the physics. Here the world is told all actions and stepped once: the same numbers in about half the time.
    """

    def __init__(self, env: Any):
        self.env = env
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.possible_agents = env.possible_agents
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        return self.env.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.env.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self.env.reset(seed=seed, options=options)
        self.agents = self.possible_agents[:]
        return self._observe(), dict(self.env.infos)

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        env, agents = self.env, self.agents
        env.current_actions = [self._legal(agent, actions[agent]) for agent in agents]
        env._execute_world_step()
        env.steps += 1
        truncated = env.steps >= env.max_cycles
        terminated = not truncated and env.scenario.is_terminal(env.world)
        if truncated or terminated:
            self.agents = []
        if self.render_mode == "human":
            env.render()
        return (
            self._observe(),
            dict(env.rewards),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            dict(env.infos),
        )

    def state(self) -> np.ndarray:
        return self.env.state()

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _observe(self) -> dict[str, np.ndarray]:
        return {agent: self.env.observe(agent) for agent in self.possible_agents}

    def _legal(self, agent: str, action: Any) -> Any:
        space = self.env.action_spaces[agent]
        if self.env.continuous_actions:
            return np.clip(action, space.low, space.high)  # as mpe2's own
        if not 0 <= action < space.n:
            raise ValueError(f"agent {agent!r}: action {action} is out of range (choices: {space.n}, from 0).")
        return action
