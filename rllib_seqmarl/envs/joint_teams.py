"""Episodes of joint environments, shared by all ways to step them: one team, many, or a batch.

Row orders, team rewards, returns, infos, and the completion and checks of the arrays are here and nowhere else.
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
# What `step_into` returns: rewards, terminated and truncated, each (B,), and infos.
JointStep = tuple[np.ndarray, np.ndarray, np.ndarray, Infos]


class TeamsStep(NamedTuple):
    """A step of B teams, in the layout's order.

    Attributes:
        rewards: (B, n), each agent's own; 0 where an episode began.
        terminated, truncated: bool (B,).
        infos: Further entries for the teams' infos, each with its mask `_name`, bool (B,).
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: Infos


class JointTeams(ABC):
    """B teams of one layout, stepped together into joint observations.

    Args:
        name: What messages call the environment.
        layout: The places of agents in the arrays.
        num_envs: B.
        team_reward, agent_order: As JointEnv's.

    Raises:
        ValueError: An option has an unknown value.
        JointEnvError: An option does not suit the team.
    """

    def __init__(self, name: str, layout: TeamLayout, num_envs: int, *, team_reward: str, agent_order: str):
        check_choice("team_reward", team_reward, TEAM_REWARDS)
        check_choice("agent_order", agent_order, AGENT_ORDERS)
        self._shuffles = agent_order == "shuffled"
        if self._shuffles and any(space != layout.action_spaces[0] for space in layout.action_spaces):
            raise JointEnvError(
                f"{name}: agent_order='shuffled' needs agents with equal action spaces, since any of them may "
                "stand in any row. Write agent_order='fixed'."
            )
        self.name = name
        self.layout = layout
        self.num_envs = num_envs
        shape = (num_envs, layout.n_agents)
        self._order = np.tile(np.arange(layout.n_agents), (num_envs, 1))  # (B, n): row i is agent order[b, i]
        self._takes_mean = team_reward == "mean"
        self._shares = np.full(num_envs, 1.0 / layout.n_agents if self._takes_mean else 1.0)  # (B,)
        self._returns = np.zeros(shape)  # of the running episodes, in the layout's order
        self._lengths = np.zeros(num_envs, np.int64)  # steps of the running episodes
        self._done = np.zeros(num_envs, np.bool_)
        self._rng = np.random.default_rng()

    def reset_into(self, arrays: Arrays, seeds: Sequence[int | None], options: dict[str, Any] | None = None) -> Infos:
        """Starts an episode of every team, with observations written into blank arrays (B, n, ...); returns infos."""
        known = [seed for seed in seeds if seed is not None]
        if known:
            self._rng = np.random.default_rng(known)
        self._done[:] = False
        self._begin(np.ones(self.num_envs, np.bool_))
        infos = self._reset(arrays, seeds, options)
        self._complete(arrays, self._done)
        return infos

    def step_into(self, actions: np.ndarray, arrays: Arrays) -> JointStep:
        """Steps every team by its joint action, (B, n, ...), or starts its next episode if the last one is over.

        Observations are written into blank arrays (B, n, ...). Returned arrays are new at every step.
        """
        begins = self._done
        self._lengths += 1
        actions = np.asarray(actions)
        try:
            self.layout.check_actions(actions, self.num_envs)
        except LayoutError as error:
            raise self._error(0, str(error)) from None
        if self._shuffles:
            actions = _in_order(actions, np.argsort(self._order, axis=1))
        if begins.any():
            self._begin(begins)
        rewards, terminated, truncated, infos = self._step(actions, begins, arrays)
        self._done = done = terminated | truncated
        agent_rewards = rewards.astype(np.float32, copy=False)
        team_rewards = rewards.sum(axis=1, dtype=np.float64) * self._shares
        if not np.isfinite(agent_rewards).all():
            team, row = np.argwhere(~np.isfinite(agent_rewards))[0]
            agent = self.layout.agents[row]
            raise self._error(team, f"agent {agent!r}: its reward is {rewards[team, row]}.")
        self._returns += agent_rewards
        self._complete(arrays, done)
        if self._shuffles:
            agent_rewards = _in_order(agent_rewards, self._order)
            for key in ("agent_terminateds", "agent_earns"):
                if key in infos:
                    infos[key] = _in_order(infos[key], self._order)
        infos["agent_rewards"] = agent_rewards
        infos["team_reward"] = team_rewards  # episodes' rewards may be changed later, which shows by comparison
        infos["_agent_rewards"] = infos["_team_reward"] = ~begins
        if done.any():
            infos["episode_agent_returns"] = self._returns.astype(np.float32)
            infos["_episode_agent_returns"] = done
            if "task" in infos:
                infos["episode_return"], infos["_episode_return"] = self._returns.sum(axis=1) * self._shares, done
        return team_rewards, terminated, truncated, infos

    def _begin(self, teams: np.ndarray) -> None:
        """Notes that episodes of `teams`, bool (B,), begin."""
        self._returns[teams] = 0.0
        self._lengths[teams] = 0
        if self._shuffles:
            rows = np.tile(np.arange(self.layout.n_agents), (int(np.count_nonzero(teams)), 1))
            self._order[teams] = self._rng.permuted(rows, axis=1)

    def _complete(self, arrays: Arrays, done: np.ndarray) -> None:
        try:
            self.layout.finish(arrays, done)
        except LayoutError as error:
            raise self._error(error.team, str(error)) from None
        if self._shuffles:
            for key, array in arrays.items():
                if key != STATE:
                    array[:] = _in_order(array, self._order)

    def _error(self, team: int, what: str) -> JointEnvError:
        length = self._lengths[team]
        return JointEnvError(f"{self.name}, {f'step {length}' if length else 'at reset'}{self._place(team)}: {what}")

    def _place(self, team: int) -> str:
        """A message's words for one of several teams."""
        return ""

    # -- how teams are stepped -------------------------------------------------------------------------------

    @abstractmethod
    def _reset(self, arrays: Arrays, seeds: Sequence[int | None], options: dict[str, Any] | None) -> Infos:
        """As `reset_into`, in the layout's order; the arrays are completed afterwards by `TeamLayout.finish`."""

    @abstractmethod
    def _step(self, actions: np.ndarray, begins: np.ndarray, arrays: Arrays) -> TeamsStep:
        """Steps the teams, or starts an episode in those of `begins`, bool (B,); arrays as for `_reset`."""


def _in_order(array: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rows (B, n, ...) of `array`, those of each team arranged by its `order` (B, n)."""
    return array[np.arange(len(order))[:, None], order]
