"""Episodes of joint environments, shared by all ways to step them: one team, many, or a batch.

This is the only place for team rewards, returns, infos, and the completion and checks of arrays.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.layout import Arrays, TeamLayout
from rllib_seqmarl.envs.options import check_choice

TEAM_REWARDS = ("mean", "sum")
Infos = dict[str, Any]
# Result of `step_into`: rewards, terminated and truncated, each (B,), and infos.
JointStep = tuple[np.ndarray, np.ndarray, np.ndarray, Infos]


class TeamsStep(NamedTuple):
    """A step of B teams.

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
        team_reward: As in JointEnv.

    Raises:
        ValueError: `team_reward` is unknown.
    """

    def __init__(self, name: str, layout: TeamLayout, num_envs: int, *, team_reward: str):
        check_choice("team_reward", team_reward, TEAM_REWARDS)
        self.name = name
        self.layout = layout
        self.num_envs = num_envs
        self._takes_mean = team_reward == "mean"
        self._shares = np.full(num_envs, 1.0 / layout.n_agents if self._takes_mean else 1.0)  # (B,)
        self._returns = np.zeros((num_envs, layout.n_agents))  # of the current episodes
        self._lengths = np.zeros(num_envs, np.int64)  # steps of the current episodes
        self._done = np.zeros(num_envs, np.bool_)

    def reset_into(self, arrays: Arrays, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> Infos:
        """Start an episode of every team; write observations into blank arrays (B, n, ...) and return infos."""
        self._done = np.zeros(self.num_envs, np.bool_)  # a new array, since infos may hold the last one
        self._returns[:] = 0.0
        self._lengths[:] = 0
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
        self._returns[reset_mask] = 0.0
        self._lengths[reset_mask] = 0
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
        infos["agent_rewards"] = agent_rewards
        infos["team_reward"] = team_rewards  # unlike the episode's reward, not changed by callbacks or connectors
        infos["_agent_rewards"] = infos["_team_reward"] = ~reset_mask
        if done.any():
            infos["episode_agent_returns"] = self._returns.astype(np.float32)
            infos["_episode_agent_returns"] = done
            if "task" in infos:
                infos["episode_return"], infos["_episode_return"] = self._returns.sum(axis=1) * self._shares, done
        return team_rewards, terminated, truncated, infos

    def _finish(self, arrays: Arrays, done: np.ndarray) -> None:
        try:
            self.layout.finish(arrays, done)
        except LayoutError as error:
            raise self._error(error.team, str(error)) from None

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
        """Reset as `reset_into` does; `TeamLayout.finish` completes the arrays afterwards."""

    @abstractmethod
    def _step(self, actions: np.ndarray, reset_mask: np.ndarray, arrays: Arrays) -> TeamsStep:
        """Step the teams, or start an episode in those of `reset_mask`, bool (B,); arrays as in `_reset`."""
