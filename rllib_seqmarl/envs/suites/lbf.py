"""Level-based foraging (Albrecht and Ramamoorthy 2013; Papoudakis et al. 2021), from the package lbforaging.

Agents of different levels pick up food together: it takes levels that add up to the food's. Tasks are named
`[{sight}s-]{size}x{size}-{players}p-{foods}f[-coop]`: how far an agent sees (everything, if it is not said), the field,
and whether every food needs the three weakest agents together (both, if there are two).
"""

import re
from typing import Any, NamedTuple

import numpy as np
from pettingzoo import ParallelEnv

from rllib_seqmarl.envs.agent_spaces import MASK_KEY
from rllib_seqmarl.envs.options import check_choice, check_number
from rllib_seqmarl.envs.suite import Suite
from rllib_seqmarl.envs.suites.tuple_env import TupleEnv


class _Task(NamedTuple):
    """The parts of a task's name."""

    sight: int
    size: int
    players: int
    foods: int
    coop: bool


def _read(task: str) -> _Task | None:
    """None if the name is no task's."""
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
    """One field. An action that cannot be done is masked. An episode is won, and terminates, when all food is gone.

    Rewards are each agent's own: who helps to pick up food shares in its level by its own level. There is no global
    state. Observations are vectors: lbforaging 2.0 cannot make its grid observations.

    Args:
        task: Such as "2s-8x8-2p-2f-coop".
        max_episode_steps: Steps after which an episode is truncated, >= 1.
        penalty: What an attempt to pick up food costs if the levels do not suffice, >= 0.
        normalize_reward: Whether all rewards of a won episode add up to 1.
        max_player_level: Agents' levels are drawn from 1 to this, >= 1.
        max_food_level: Foods' levels are drawn from 1 to this, >= 1, or all are this in "-coop" tasks; None for the
            sum of the three lowest levels of agents.
        observe_agent_levels: Whether agents see levels of agents.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: A value out of range.
    """
    read = _read(task)
    assert read is not None
    check_number("max_episode_steps", max_episode_steps, 1)
    check_number("penalty", penalty, 0, whole=False)
    check_choice("normalize_reward", normalize_reward, (False, True))
    check_number("max_player_level", max_player_level, 1)
    if max_food_level is not None:
        check_number("max_food_level", max_food_level, 1)
    check_choice("observe_agent_levels", observe_agent_levels, (False, True))
    check_choice("render_mode", render_mode, (None, "rgb_array"))

    from lbforaging.foraging import ForagingEnv

    field = ForagingEnv(
        players=read.players,
        min_player_level=1,
        max_player_level=max_player_level,
        min_food_level=1,
        max_food_level=max_food_level,
        field_size=(read.size, read.size),
        max_num_food=read.foods,
        sight=read.sight,
        max_episode_steps=max_episode_steps,
        force_coop=read.coop,
        normalize_reward=normalize_reward,
        observe_agent_levels=observe_agent_levels,
        penalty=penalty,
        render_mode=render_mode,
    )
    return ForagingTeam(field, f"lbf/{task}", render_mode)


class ForagingTeam(TupleEnv):
    """A team of foragers. The package calls each end a termination; here the time limit is a truncation."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        for player in self.env.players:
            # It would keep others off the place where it stood, and a seed would not fix where they start.
            player.position = None
        return super().reset(seed, options)

    def _won(self) -> bool:
        return not self.env.field.any()

    def _why_over(self) -> tuple[bool, bool]:
        won = self._won()
        return won, not won

    def _infos(self) -> dict[str, dict[str, Any]]:
        infos = {}
        for agent, player in zip(self.possible_agents, self.env.players, strict=True):
            mask = np.zeros(6, np.int8)  # nothing, north, south, west, east, pick up
            mask[[action.value for action in self.env._valid_actions[player]]] = 1
            infos[agent] = {MASK_KEY: mask}
        return infos

    def _summary(self) -> dict[str, Any]:
        return {"win": float(self._won())}


_LISTED = (
    *("2s-8x8-2p-2f-coop", "8x8-2p-2f-coop", "2s-10x10-3p-3f", "10x10-3p-3f"),
    *("15x15-3p-5f", "15x15-4p-3f", "15x15-4p-5f"),
)


def _sentence(task: str) -> str:
    read: Any = _read(task)
    sees = "see all" if read.sight == read.size else f"see {read.sight} cells far"
    together = ", each only together" if read.coop else ""
    return f"{read.players} agents {sees} and pick up {read.foods} foods{together}, on {read.size} x {read.size} cells."


SUITE = Suite(
    name="lbf",
    tasks={task: _sentence(task) for task in _LISTED},
    make=make_lbf,
    requires=("lbforaging",),
    extra="lbf",
    knows=lambda task: _read(task) is not None,
    other_tasks="[{1..size}s-]{5..20}x{5..20}-{2..20}p-{1..10}f[-coop]",
)
