"""Teams of single environments, stepped one by one into the arrays of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rllib_seqmarl.envs.errors import JointEnvError, LayoutError
from rllib_seqmarl.envs.joint_teams import Infos, JointTeams, TeamsStep
from rllib_seqmarl.envs.layout import Arrays
from rllib_seqmarl.envs.team_reader import TeamReader

AGENT_INFOS = "agent_infos"  # in joint infos: the environment's infos by agent


class EnvTeams(JointTeams):
    """Teams that are each stepped by a TeamReader.

    Args:
        name: The environment's name in messages.
        readers: One per team, all with the same layout.
        team_reward: As in JointEnv.
    """

    def __init__(self, name: str, readers: Sequence[TeamReader], *, team_reward: str):
        super().__init__(name, readers[0].layout, len(readers), team_reward=team_reward)
        self._readers = tuple(readers)

    def _reset(self, arrays: Arrays, seeds: Sequence[int | None], options: dict[str, Any] | None) -> Infos:
        infos: Infos = {}
        for i, seed in zip(range(self.num_envs), seeds, strict=True):
            self._reset_one(infos, i, arrays, seed, options)
        return infos

    def _reset_one(self, infos: Infos, i: int, arrays: Arrays, seed: int | None = None, options: Any = None) -> None:
        """Reset one team and add its environment's infos."""
        reader = self._readers[i]
        try:
            agent_infos = reader.reset(_row(arrays, i), seed, options)
        except (LayoutError, JointEnvError) as error:
            raise self._error(i, str(error)) from error.__cause__
        if self._takes_mean:
            self._shares[i] = 1.0 / reader.num_present()
        if agent_infos is not None:
            _add_info(infos, AGENT_INFOS, i, agent_infos, self.num_envs)

    def _step(self, actions: np.ndarray, reset_mask: np.ndarray, arrays: Arrays) -> TeamsStep:
        layout, num_envs = self.layout, self.num_envs
        rewards = [[0.0] * layout.n_agents] * num_envs
        terminated, truncated = [False] * num_envs, [False] * num_envs
        infos: Infos = {}
        rows = layout.rows(actions)
        for i, (reader, is_reset) in enumerate(zip(self._readers, reset_mask.tolist(), strict=True)):
            if is_reset:
                self._reset_one(infos, i, arrays)
                continue
            try:
                result = reader.step(rows[i], _row(arrays, i))
            except (LayoutError, JointEnvError) as error:
                raise self._error(i, str(error)) from error.__cause__
            rewards[i], terminated[i], truncated[i] = result.rewards, result.terminated, result.truncated
            parts = {AGENT_INFOS: result.infos, "agent_terminateds": result.ended, "agent_earns": result.earns}
            for name, value in (parts | result.summary).items():
                if value is not None:
                    _add_info(infos, name, i, value, num_envs)
        return TeamsStep(np.array(rewards), np.array(terminated), np.array(truncated), infos)


def _add_info(infos: Infos, name: str, i: int, value: Any, num_envs: int) -> None:
    """Set team i's value in a vector environment's infos: an array of values, and a mask of the teams with one."""
    if name not in infos:
        is_number = isinstance(value, list | float)  # flags of the agents, or the win
        example = np.array(value) if is_number else np.array(None)
        infos[name] = np.full((num_envs, *example.shape), False if is_number else None, example.dtype)
        infos[f"_{name}"] = np.zeros(num_envs, np.bool_)
    infos[name][i], infos[f"_{name}"][i] = value, True


def _row(arrays: Arrays, i: int) -> Arrays:
    """The views of one team in a batch."""
    return {name: array[i] for name, array in arrays.items()}
