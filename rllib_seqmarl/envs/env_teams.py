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
        agent_infos = [
            self._reset_one(i, arrays, seed, options) for i, seed in zip(range(self.num_envs), seeds, strict=True)
        ]
        return _vector_infos({AGENT_INFOS: agent_infos})

    def _reset_one(self, i: int, arrays: Arrays, seed: int | None = None, options: Any = None) -> Any:
        """Reset one team and return its environment's infos."""
        reader = self._readers[i]
        try:
            infos = reader.reset(_row(arrays, i), seed, options)
        except (LayoutError, JointEnvError) as error:
            raise self._error(i, str(error)) from error.__cause__
        if self._takes_mean:
            self._shares[i] = 1.0 / reader.num_present()
        return infos

    def _step(self, actions: np.ndarray, reset_mask: np.ndarray, arrays: Arrays) -> TeamsStep:
        layout, num_envs = self.layout, self.num_envs
        rewards = [[0.0] * layout.n_agents] * num_envs
        terminated, truncated = [False] * num_envs, [False] * num_envs
        agent_infos: list[Any] = [None] * num_envs
        optional: dict[str, list[Any]] = {}
        rows = layout.rows(actions)
        for i, (reader, is_reset) in enumerate(zip(self._readers, reset_mask.tolist(), strict=True)):
            if is_reset:
                agent_infos[i] = self._reset_one(i, arrays)
                continue
            try:
                result = reader.step(rows[i], _row(arrays, i))
            except (LayoutError, JointEnvError) as error:
                raise self._error(i, str(error)) from error.__cause__
            rewards[i], terminated[i], truncated[i], agent_infos[i], ended, earns, summary = result
            if ended is not None:
                optional.setdefault("agent_terminateds", [None] * num_envs)[i] = ended
            if earns is not None:
                optional.setdefault("agent_earns", [None] * num_envs)[i] = earns
            for key, value in summary.items():
                optional.setdefault(key, [None] * num_envs)[i] = value
        infos = _vector_infos({AGENT_INFOS: agent_infos, **optional})
        return TeamsStep(np.array(rewards), np.array(terminated), np.array(truncated), infos)


_DTYPES = {"agent_terminateds": np.bool_, "agent_earns": np.bool_, "win": np.float64}


def _vector_infos(parts: dict[str, list[Any]]) -> Infos:
    """Convert to a vector environment's infos: for each part an array of values and a mask of the teams with one."""
    infos: Infos = {}
    for name, values in parts.items():
        has_value = [value is not None for value in values]
        if not any(has_value):
            continue
        example = next(value for value in values if value is not None)
        dtype = _DTYPES.get(name, object)
        if dtype is object:
            array = np.empty(len(values), object)
            array[:] = values
        else:
            blank = [False] * len(example) if isinstance(example, list) else 0.0
            array = np.array([blank if value is None else value for value in values], dtype)
        infos[name], infos[f"_{name}"] = array, np.array(has_value)
    return infos


def _row(arrays: Arrays, i: int) -> Arrays:
    """The views of one team in a batch."""
    return {name: array[i] for name, array in arrays.items()}
