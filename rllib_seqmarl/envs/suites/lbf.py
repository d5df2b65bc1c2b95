"""Level-based foraging (Albrecht and Ramamoorthy 2013; Papoudakis et al. 2021), from the package lbforaging.

Agents of different levels pick up food together: their levels must add up to at least the food's level. Tasks are named
`[{sight}s-]{size}x{size}-{players}p-{foods}f[-coop]`. The sight defaults to the whole field. With "-coop" every food
takes the three weakest agents together (both agents in a team of two).
"""

import re
from typing import Any, NamedTuple

import numpy as np
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.agent_spaces import MASK_KEY
from rllib_seqmarl.envs.options import check_options
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.tuple_env import TupleEnv


class _Task(NamedTuple):
    """The parts of a task's name."""

    sight: int
    size: int
    players: int
    foods: int
    coop: bool


def _parse_task(task: str) -> _Task | None:
    """Parse a task name; None if it is invalid."""
    match = re.fullmatch(r"(?:([1-9]\d*)s-)?([1-9]\d*)x\2-([1-9]\d*)p-([1-9]\d*)f(-coop)?", task)
    if match is None:
        return None
    size, players, foods = (int(number) for number in match.group(2, 3, 4))
    sight = int(match[1] or size)
    if sight > size or not 5 <= size <= 20 or not 2 <= players <= 20 or foods > 10:
        return None
    return _Task(sight, size, players, foods, coop=match[5] is not None)


def make_lbf(
    task: str,
    *,
    max_episode_steps: int = 50,
    penalty: float = 0.0,
    normalize_reward: bool = True,
    max_player_level: int = 2,
    max_food_level: int | None = None,
    observe_agent_levels: bool = True,
    render_mode: str | None = None,
) -> ParallelEnv:
    """Make a field. Impossible actions are masked. An episode is won, and terminates, when all food is collected.

    Rewards are individual: the agents that pick up food share its level in proportion to their own levels. There is no
    global state. Observations are vectors: grid observations do not work in lbforaging 2.0.

    Args:
        task: Such as "2s-8x8-2p-2f-coop".
        max_episode_steps: Steps after which an episode is truncated, >= 1.
        penalty: Cost of an attempt to pick up food with insufficient levels, >= 0.
        normalize_reward: Whether all rewards of a won episode add up to 1.
        max_player_level: Maximum agent level, >= 1; levels are drawn from 1 to this value.
        max_food_level: Maximum food level, >= 1; the level of all food in "-coop" tasks, else levels are drawn from 1
            to this value. None for the sum of the three lowest agent levels.
        observe_agent_levels: Whether agents observe agent levels.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: A value is out of range.
    """
    spec = _parse_task(task)
    assert spec is not None
    limits = {"max_episode_steps": 1, "penalty": 0, "max_player_level": 1, "max_food_level": 1}
    check_options(make_lbf, locals(), limits)

    from lbforaging.foraging import ForagingEnv

    field = ForagingEnv(
        players=spec.players,
        min_player_level=1,
        max_player_level=max_player_level,
        min_food_level=1,
        max_food_level=max_food_level,
        field_size=(spec.size, spec.size),
        max_num_food=spec.foods,
        sight=spec.sight,
        max_episode_steps=max_episode_steps,
        force_coop=spec.coop,
        normalize_reward=normalize_reward,
        observe_agent_levels=observe_agent_levels,
        penalty=penalty,
        render_mode=render_mode,
    )
    return ForagingTeam(field, f"lbf/{task}", render_mode)


class ForagingTeam(TupleEnv):
    """A team of foragers. Unlike in the package, the time limit is a truncation, not a termination."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        for player in self.env.players:
            # The package keeps other players off the old position, so equal seeds would give different episodes.
            player.position = None
        return super().reset(seed, options)

    def _has_terminated(self) -> bool:
        return not self.env.field.any()

    def _infos(self) -> dict[str, dict[str, Any]]:
        infos = {}
        for agent, player in zip(self.possible_agents, self.env.players, strict=True):
            mask = np.zeros(6, np.int8)  # none, north, south, west, east, load
            mask[[action.value for action in self.env._valid_actions[player]]] = 1
            infos[agent] = {MASK_KEY: mask}
        return infos

    def _final_info(self) -> dict[str, Any]:
        return {"win": float(self._has_terminated())}


_LISTED = (
    *("2s-8x8-2p-2f-coop", "8x8-2p-2f-coop", "2s-10x10-3p-3f", "10x10-3p-3f"),
    *("15x15-3p-5f", "15x15-4p-3f", "15x15-4p-5f"),
)


def _describe(task: str) -> str:
    spec: Any = _parse_task(task)
    sight = "see everything" if spec.sight == spec.size else f"see {spec.sight} cells far"
    coop = ", each only jointly" if spec.coop else ""
    return f"{spec.players} agents {sight} and pick up {spec.foods} foods{coop}, on {spec.size} x {spec.size} cells."


SUITE = Suite(
    name="lbf",
    tasks={task: _describe(task) for task in _LISTED},
    make=make_lbf,
    requires=("lbforaging",),
    extra="lbf",
    knows=lambda task: _parse_task(task) is not None,
    other_tasks="[{1..size}s-]{5..20}x{5..20}-{2..20}p-{1..10}f[-coop]",
)
