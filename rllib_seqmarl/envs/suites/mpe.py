"""Cooperative tasks of the multi-agent particle environments (Lowe et al. 2017), from the package mpe2.

The package's other five tasks (simple_adversary, simple_crypto, simple_push, simple_tag, simple_world_comm) set two
teams against each other and are left out.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.options import Limits, check_options
from rllib_seqmarl.envs.pettingzoo_turns import PettingZooTurns
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
_LIMITS: Limits = {
    **dict.fromkeys(("max_cycles", "N", "num_agent_neighbors", "num_landmark_neighbors"), 1),
    **dict.fromkeys(("num_collectors", "num_treasures"), 1),
    "num_deposits": (1, 6),
    "local_ratio": (0, 1),
}


def make_mpe(task: str, **options: Any) -> ParallelEnv:
    """Make one task of mpe2. Rewards are individual or shared, as the task defines.

    Args:
        task: Its name without the version, such as "simple_spread".
        **options: Passed on to the task. Not every task has all of them.
            max_cycles: steps after which an episode is truncated, >= 1; 25 by default.
            continuous_actions: real-valued actions from 0 to 1 instead of discrete ones.
            render_mode: None, "rgb_array" or "human".
            dynamic_rescaling: whether rendered images zoom with the agents.
            benchmark_data: whether infos contain mpe2's "benchmark_data".
            N: number of agents in simple_spread (3), simple_formation and simple_line (4), >= 1.
            local_ratio: weight of the individual reward in simple_spread and simple_reference; 0 to 1.
            terminate_on_success: in simple_spread, simple_formation and simple_line, whether an episode ends once all
                agents are in position. The last infos then contain "win".
            curriculum: in simple_spread, whether training starts without the penalty for collisions.
            num_agent_neighbors, num_landmark_neighbors: in simple_spread, how many of the nearest agents and landmarks
                are observed, >= 1; None for all.
            num_collectors, num_deposits, num_treasures: in collect_treasure, >= 1, and at most 6 deposits.

    Raises:
        ValueError: An option is unknown (the message suggests the closest match) or out of range.
    """
    raw_env = importlib.import_module(f"mpe2.{task}_v{_VERSIONS[task]}").raw_env
    check_options(raw_env, options, _LIMITS, owner=f"mpe/{task}", render_modes=("rgb_array", "human"))
    return ParallelMPE(raw_env(**options))


class ParallelMPE(PettingZooTurns):
    """A task of mpe2 in which all agents act simultaneously.

    mpe2's own `parallel_env` steps agent by agent through five wrappers, which takes longer than the physics. Here all
    actions are set and the world is stepped once: the results are identical, in about half the time.
    """

    def __init__(self, env: Any):
        super().__init__(env, env.render_mode)
        self.metadata = dict(env.metadata)  # copied: mpe2's tasks share one dict, renamed by each new instance
        self._can_win = getattr(env.scenario, "terminate_on_success", False)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self.env.reset(seed=seed, options=options)
        self.agents = self.possible_agents[:]
        return self._observe(self.agents), dict(self.env.infos)

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        env = self.env
        env.current_actions = [self.legal_action(agent, actions[agent]) for agent in self.agents]
        env._execute_world_step()
        env.steps += 1
        won = env.scenario.is_terminal(env.world)
        truncated = env.steps >= env.max_cycles
        terminated = won and not truncated
        infos = dict(env.infos)
        if (truncated or terminated) and self._can_win:
            infos = {agent: {**info, "win": float(won)} for agent, info in infos.items()}
        if self.render_mode == "human":
            env.render()
        return self.end_step(self._observe(self.agents), dict(env.rewards), terminated, truncated, infos)

    def close(self) -> None:
        self.env.close()


SUITE = Suite(
    name="mpe",
    tasks={
        "simple": "One agent goes to a landmark: the smallest test of learning, without a team.",
        "simple_spread": "N agents cover N landmarks without colliding.",
        "simple_reference": "Two agents tell each other which landmark to go to.",
        "simple_speaker_listener": "One agent sees the goal and speaks; the other one goes there.",
        "simple_formation": "N agents form a circle around a landmark.",
        "simple_line": "N agents line up between two landmarks.",
        "collect_treasure": "Collectors bring treasures to deposits of the matching kind; deposits are agents too.",
    },
    make=make_mpe,
    requires=("mpe2",),
    extra="mpe",
)
