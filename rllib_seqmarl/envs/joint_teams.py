"""Episodes of joint environments, shared by all ways to step them: one team, many, or a batch.

This is the only place for row orders, team rewards, returns, infos, and the completion and checks of arrays.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.layout import STATE, Arrays, TeamLayout
from rllib_seqmarl.envs.options import check_choice

TEAM_REWARDS = ("mean", "sum")
AGENT_ORDERS = ("fixed", "shuffled")
Infos = dict[str, Any]
# Result of `step_into`: rewards, terminated and truncated, each (B,), and infos.
JointStep = tuple[np.ndarray, np.ndarray, np.ndarray, Infos]


class TeamsStep(NamedTuple):
    """A step of B teams, in the layout's order.

    Attributes:
        rewards: (B, n), per agent; 0 where an episode started.
        terminated, truncated: bool (B,).
        infos: Additional entries for the teams' infos, each with its mask `_name`, bool (B,).
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: Infos


class JointTeams(ABC):
    """B teams of one layout, stepped together into joint observations.

    Args:
        name: The environment's name in messages.
        layout: The layout of the arrays.
        num_envs: B.
        team_reward, agent_order: As in JointEnv.

    Raises:
        ValueError: An option has an unknown value.
        JointEnvError: An option is not applicable to the team.
    """

    def __init__(self, name: str, layout: TeamLayout, num_envs: int, *, team_reward: str, agent_order: str):
        check_choice("team_reward", team_reward, TEAM_REWARDS)
        check_choice("agent_order", agent_order, AGENT_ORDERS)
        self._shuffles = agent_order == "shuffled"
        if self._shuffles and any(space != layout.action_spaces[0] for space in layout.action_spaces):
            raise JointEnvError(
                f"{name}: agent_order='shuffled' needs agents with equal action spaces, since each can be in "
                "any row. Set agent_order='fixed'."
            )
        self.name = name
        self.layout = layout
        self.num_envs = num_envs
        shape = (num_envs, layout.n_agents)
        self._order = np.tile(np.arange(layout.n_agents), (num_envs, 1))  # (B, n): row i is agent order[b, i]
        self._takes_mean = team_reward == "mean"
        self._shares = np.full(num_envs, 1.0 / layout.n_agents if self._takes_mean else 1.0)  # (B,)
        self._returns = np.zeros(shape)  # of the current episodes, in the layout's order
        self._lengths = np.zeros(num_envs, np.int64)  # steps of the current episodes
        self._done = np.zeros(num_envs, np.bool_)
        self._rng = np.random.default_rng()

    def reset_into(self, arrays: Arrays, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> Infos:
        """Start an episode of every team; write observations into blank arrays (B, n, ...) and return infos."""
        given = [seed for seed in seeds if seed is not None]
        if given:
            self._rng = np.random.default_rng(given)
        self._done[:] = False
        self._start_episodes(np.ones(self.num_envs, np.bool_))
        infos = self._reset(arrays, seeds, options)
        self._finish(arrays, self._done)
        return infos

    def step_into(self, actions: np.ndarray, arrays: Arrays) -> JointStep:
        """Step every team with its joint action, (B, n, ...), or start its next episode if the last one is over.

        Observations are written into blank arrays (B, n, ...). Returned arrays are new at every step.
        """
        reset_mask = self._done
        self._lengths += 1
        actions = np.asarray(actions)
        try:
            self.layout.check_actions(actions, self.num_envs)
        except LayoutError as error:
            raise self._error(0, str(error)) from None
        if self._shuffles:
            actions = _in_order(actions, np.argsort(self._order, axis=1))
        if reset_mask.any():
            self._start_episodes(reset_mask)
        rewards, terminated, truncated, infos = self._step(actions, reset_mask, arrays)
        self._done = done = terminated | truncated
        agent_rewards = rewards.astype(np.float32, copy=False)
        team_rewards = rewards.sum(axis=1, dtype=np.float64) * self._shares
        if not np.isfinite(agent_rewards).all():
            team, row = np.argwhere(~np.isfinite(agent_rewards))[0]
            agent = self.layout.agents[row]
            raise self._error(team, f"agent {agent!r}: its reward is {rewards[team, row]}.")
        self._returns += agent_rewards
        self._finish(arrays, done)
        if self._shuffles:
            agent_rewards = _in_order(agent_rewards, self._order)
            for key in ("agent_terminateds", "agent_earns"):
                if key in infos:
                    infos[key] = _in_order(infos[key], self._order)
        infos["agent_rewards"] = agent_rewards
        infos["team_reward"] = team_rewards  # unlike the episode's reward, not changed by callbacks or connectors
        infos["_agent_rewards"] = infos["_team_reward"] = ~reset_mask
        if done.any():
            infos["episode_agent_returns"] = self._returns.astype(np.float32)
            infos["_episode_agent_returns"] = done
            if "task" in infos:
                infos["episode_return"], infos["_episode_return"] = self._returns.sum(axis=1) * self._shares, done
        return team_rewards, terminated, truncated, infos

    def _start_episodes(self, teams: np.ndarray) -> None:
        """Reset the state of episodes that start, given `teams`, bool (B,)."""
        self._returns[teams] = 0.0
        self._lengths[teams] = 0
        if self._shuffles:
            rows = np.tile(np.arange(self.layout.n_agents), (int(np.count_nonzero(teams)), 1))
            self._order[teams] = self._rng.permuted(rows, axis=1)

    def _finish(self, arrays: Arrays, done: np.ndarray) -> None:
        try:
            self.layout.finish(arrays, done)
        except LayoutError as error:
            raise self._error(error.team, str(error)) from None
        if self._shuffles:
            for key, array in arrays.items():
                if key != STATE:
                    array[:] = _in_order(array, self._order)

    def _error(self, team: int, message: str) -> JointEnvError:
        length = self._lengths[team]
        return JointEnvError(
            f"{self.name}, {f'step {length}' if length else 'at reset'}{self._location(team)}: {message}"
        )

    def _location(self, team: int) -> str:
        """Part of a message that identifies one of several teams."""
        return ""

    # -- implemented by subclasses ---------------------------------------------------------------------------

    @abstractmethod
    def _reset(self, arrays: Arrays, seeds: Sequence[int | None], options: dict[str, Any] | None) -> Infos:
        """Reset as `reset_into` does, in the layout's order; `TeamLayout.finish` completes the arrays afterwards."""

    @abstractmethod
    def _step(self, actions: np.ndarray, reset_mask: np.ndarray, arrays: Arrays) -> TeamsStep:
        """Step the teams, or start an episode in those of `reset_mask`, bool (B,); arrays as in `_reset`."""


def _in_order(array: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Permute each team's rows of `array` (B, n, ...) by its `order` (B, n)."""
    return array[np.arange(len(order))[:, None], order]
