"""Cooperative tasks of the multi-agent particle environments (Lowe et al. 2017), from the package mpe2.

Its other five tasks (simple_adversary, simple_crypto, simple_push, simple_tag, simple_world_comm) set two teams against
each other, so they are nothing that one team could learn.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.options import check_choice, check_names, check_number
from rllib_seqmarl.envs.suite import Suite

_VERSIONS = {
    "simple": 3,
    "simple_spread": 3,
    "simple_reference": 3,
    "simple_speaker_listener": 4,
    "simple_formation": 1,
    "simple_line": 1,
    "collect_treasure": 1,
}


def make_mpe(task: str, **options: Any) -> ParallelEnv:
    """One task, as mpe2 publishes it: rewards are each agent's own, or shared where the task says so.

    Args:
        task: Its name without the version, such as "simple_spread".
        **options: Passed on to the task, which need not have them all.
            max_cycles: steps after which an episode is truncated, >= 1; 25 by default.
            continuous_actions: real numbers from 0 to 1 instead of choices.
            render_mode: None, "rgb_array" or "human".
            dynamic_rescaling: whether pictures zoom with the agents.
            benchmark_data: whether infos hold mpe2's "benchmark_data".
            N: agents of simple_spread (3), simple_formation and simple_line (4), >= 1.
            local_ratio: of simple_spread and simple_reference, how much of the reward is the agent's own; 0 to 1.
            terminate_on_success: of simple_spread, simple_formation and simple_line, whether an episode ends as soon
                as all stand where they should. Then the last infos hold "win".
            curriculum: of simple_spread, whether it begins without the penalty for collisions.
            num_agent_neighbors, num_landmark_neighbors: of simple_spread, how many of the nearest are observed, >= 1;
                None for all.
            num_collectors, num_deposits, num_treasures: of collect_treasure, >= 1, and no more than 6 deposits.

    Raises:
        ValueError: An option which the task does not have (the nearest it has is named), or a value out of range.
    """
    module = importlib.import_module(f"mpe2.{task}_v{_VERSIONS[task]}")
    known = [name for name in inspect.signature(module.raw_env.__init__).parameters if name != "self"]
    check_names(f"mpe/{task}", options, known)
    for option, value in options.items():
        _CHECKS[option](option, value)
    return ParallelMPE(module.raw_env(**options))


def _switch(option: str, value: Any) -> None:
    check_choice(option, value, (False, True))


def _count(option: str, value: Any) -> None:
    check_number(option, value, 1)


def _count_or_all(option: str, value: Any) -> None:
    if value is not None:
        check_number(option, value, 1)


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "max_cycles": _count,
    "continuous_actions": _switch,
    "render_mode": lambda option, value: check_choice(option, value, (None, "rgb_array", "human")),
    "dynamic_rescaling": _switch,
    "benchmark_data": _switch,
    "N": _count,
    "local_ratio": lambda option, value: check_number(option, value, 0, 1, whole=False),
    "terminate_on_success": _switch,
    "curriculum": _switch,
    "num_agent_neighbors": _count_or_all,
    "num_landmark_neighbors": _count_or_all,
    "num_collectors": _count,
    "num_deposits": lambda option, value: check_number(option, value, 1, 6),
    "num_treasures": _count,
}


class ParallelMPE(ParallelEnv):
    """A task of mpe2, moved by all agents at once.

    mpe2's own `parallel_env` plays the same steps turn by turn through five wrappers, which takes longer than
    the physics. Here the world is told all actions and stepped once: the same numbers in about half the time.
    """

    def __init__(self, env: Any):
        self.env = env
        self.metadata = dict(env.metadata)  # all tasks of mpe2 share one, with the name of the last one made
        self.render_mode = env.render_mode
        self.possible_agents = env.possible_agents
        self.agents: list[str] = []
        self._can_win = getattr(env.scenario, "terminate_on_success", False)

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
        env.current_actions = [self._legal_action(agent, actions[agent]) for agent in agents]
        env._execute_world_step()
        env.steps += 1
        won = env.scenario.is_terminal(env.world)
        truncated = env.steps >= env.max_cycles
        terminated = won and not truncated
        infos = dict(env.infos)
        if truncated or terminated:
            self.agents = []
            if self._can_win:
                infos = {agent: {**info, "win": float(won)} for agent, info in infos.items()}
        if self.render_mode == "human":
            env.render()
        return (
            self._observe(),
            dict(env.rewards),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            infos,
        )

    def state(self) -> np.ndarray:
        return self.env.state()

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _observe(self) -> dict[str, np.ndarray]:
        return {agent: self.env.observe(agent) for agent in self.possible_agents}

    def _legal_action(self, agent: str, action: Any) -> Any:
        space = self.env.action_spaces[agent]
        if self.env.continuous_actions:
            return np.clip(action, space.low, space.high)  # as mpe2's own
        if not 0 <= action < space.n:
            raise ValueError(f"agent {agent!r}: action {action} is out of range (choices: {space.n}, from 0).")
        return action


SUITE = Suite(
    name="mpe",
    tasks={
        "simple": "One agent goes to a landmark: no team, but the smallest test of learning.",
        "simple_spread": "N agents cover N landmarks without colliding.",
        "simple_reference": "Two agents tell each other which landmark to go to.",
        "simple_speaker_listener": "One agent sees the goal and speaks; the other one goes there.",
        "simple_formation": "N agents form a circle around a landmark.",
        "simple_line": "N agents line up between two landmarks.",
        "collect_treasure": "Collectors bring treasures to the deposit of their kind, itself an agent.",
    },
    make=make_mpe,
    requires=("mpe2",),
    extra="mpe",
)
