"""Preallocated arrays that an env runner writes row by row."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tree
from torch import Tensor

from rllib_seqmarl.envs.layout import Arrays, TeamLayout
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.episodes import find_segments


class RolloutBuffer:
    """Buffer of `capacity` rows of `num_envs` joint environments, and the observations after the last row.

    The operating system allocates memory only when it is written to, so unused capacity costs nothing.

    Args:
        layout: The environments' layout.
        num_envs: Number of environments, B.
        capacity: Number of rows.
        first_obs: The first observations, each array (B, ...).
    """

    def __init__(self, layout: TeamLayout, num_envs: int, capacity: int, first_obs: Arrays) -> None:
        shape = capacity, num_envs
        self.capacity = capacity
        self._blank = layout.blank(num_envs)
        self.obs = {key: np.empty((capacity + 1, *row.shape), row.dtype) for key, row in self._blank.items()}
        self.states: list[Any] = []  # the policy's states before rows 0, max_seq_len, ..., trees of arrays (B, ...)
        self.outputs: Arrays = {}  # allocated at the first call of `write_outputs`
        self.rewards = np.empty(shape, np.float32)
        self.env_rewards = np.empty(shape, np.float32)
        self.agent_rewards = np.empty((*shape, layout.n_agents), np.float32)
        self.terminated = np.empty(shape, np.bool_)
        self.truncated = np.empty(shape, np.bool_)
        self.is_step = np.empty(shape, np.bool_)
        self.agent_terminated = np.zeros((*shape, layout.n_agents), np.bool_)
        self.agent_earns = np.ones((*shape, layout.n_agents), np.bool_)
        self.infos: dict[tuple[int, int], dict[str, Any]] = {}
        self._share_memory()
        self.write_obs(0, first_obs)

    def _share_memory(self) -> None:
        self._obs_tensors = {key: torch.from_numpy(array) for key, array in self.obs.items()}
        self._output_tensors = {key: torch.from_numpy(array) for key, array in self.outputs.items()}

    def write_obs(self, t: int, obs: Arrays) -> None:
        """Write the observations of row `t`, each array (B, ...)."""
        for key, array in self.obs.items():
            array[t] = obs[key]

    def blank_obs(self, t: int) -> Arrays:
        """Return row `t` of the observations, cleared for an environment to write to, each array (B, ...)."""
        self.write_obs(t, self._blank)
        return {key: array[t] for key, array in self.obs.items()}

    def obs_tensors(self, t: int) -> dict[str, Tensor]:
        """Return row `t` of the observations without copying."""
        return {key: tensor[t] for key, tensor in self._obs_tensors.items()}

    def write_outputs(self, t: int, outputs: dict[str, Tensor]) -> Arrays:
        """Write the module's outputs for row `t`, from any device; return that row, each array (B, ...)."""
        if not self.outputs:
            self.outputs = {
                key: np.empty((self.capacity, *output.shape), torch.empty(0, dtype=output.dtype).numpy().dtype)
                for key, output in outputs.items()
            }
            self._share_memory()
        for key, output in outputs.items():
            self._output_tensors[key][t] = output
        return {key: array[t] for key, array in self.outputs.items()}

    def grow(self) -> None:
        """Double the capacity."""

        def extend(array: np.ndarray, rows: int) -> np.ndarray:
            extended = np.zeros((rows, *array.shape[1:]), array.dtype)
            extended[: len(array)] = array
            return extended

        self.capacity *= 2
        self.obs = {key: extend(array, self.capacity + 1) for key, array in self.obs.items()}
        self.outputs = {key: extend(array, self.capacity) for key, array in self.outputs.items()}
        for name in (
            "rewards",
            "env_rewards",
            "agent_rewards",
            "terminated",
            "truncated",
            "is_step",
            "agent_terminated",
            "agent_earns",
        ):
            setattr(self, name, extend(getattr(self, name), self.capacity))
        self.agent_earns[self.capacity // 2 :] = True
        self._share_memory()

    def rollout(
        self,
        rows: int,
        *,
        lengths_before: np.ndarray,
        episodes_before: np.ndarray,
        env_ids: list[str],
        weights_seq_no: int,
        spaces: tuple[gym.Space, gym.Space],
        max_seq_len: int = 0,
        last_state: Any = None,
        num_episodes: int | None = None,
    ) -> Rollout:
        """Return the first `rows` rows; with `num_episodes`, only the steps of the episodes that ended first."""
        is_step = self.is_step[:rows]
        if num_episodes is not None:
            segments = find_segments(is_step, self.terminated[:rows] | self.truncated[:rows])
            is_step = np.zeros_like(is_step)
            for segment in segments[:num_episodes]:
                is_step[segment.first : segment.last, segment.env] = segment.is_done
        return Rollout(
            obs={key: array[: rows + 1] for key, array in self.obs.items()},
            outputs={key: array[:rows] for key, array in self.outputs.items()},
            rewards=self.rewards[:rows],
            env_rewards=self.env_rewards[:rows],
            agent_rewards=self.agent_rewards[:rows],
            terminated=self.terminated[:rows],
            truncated=self.truncated[:rows],
            is_step=is_step,
            agent_terminated=self.agent_terminated[:rows],
            agent_earns=self.agent_earns[:rows],
            infos=self.infos,
            lengths_before=lengths_before,
            episodes_before=episodes_before,
            env_ids=env_ids,
            weights_seq_no=weights_seq_no,
            spaces=spaces,
            max_seq_len=max_seq_len,
            states=tree.map_structure(lambda *x: np.stack(x), *self.states) if self.states else None,
            last_state=last_state,
        )
