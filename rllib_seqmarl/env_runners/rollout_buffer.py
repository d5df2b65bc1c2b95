"""The arrays that an env runner writes row by row; allocated once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.envs.layout import Arrays, TeamLayout
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.episodes import find_segments


class RolloutBuffer:
    """Room for `capacity` rows of `num_envs` joint environments, and for the observations after the last row.

    Memory that has not been written to is not taken from the machine yet, so more room than is needed costs nothing.

    Args:
        layout: Of the environments.
        num_envs: B.
        capacity: Rows.
        first: What the teams see at first, each array (B, ...).
    """

    def __init__(self, layout: TeamLayout, num_envs: int, capacity: int, first: Arrays) -> None:
        shape = capacity, num_envs
        self.capacity = capacity
        self._blank = layout.blank(num_envs)
        self.obs = {key: np.empty((capacity + 1, *row.shape), row.dtype) for key, row in self._blank.items()}
        self.outputs: Arrays = {}  # laid out when the module's outputs are seen
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
        self.see(0, first)

    def _share_memory(self) -> None:
        self._obs_tensors = {key: torch.from_numpy(array) for key, array in self.obs.items()}
        self._output_tensors = {key: torch.from_numpy(array) for key, array in self.outputs.items()}

    def see(self, t: int, seen: Arrays) -> None:
        """Takes in what is seen in row `t`, each array (B, ...)."""
        for key, array in self.obs.items():
            array[t] = seen[key]

    def blank_obs(self, t: int) -> Arrays:
        """Row `t` of the observations as an environment wants to be given it: blank, each array (B, ...)."""
        self.see(t, self._blank)
        return {key: array[t] for key, array in self.obs.items()}

    def obs_tensors(self, t: int) -> dict[str, Tensor]:
        """Row `t` of the observations, without a copy."""
        return {key: tensor[t] for key, tensor in self._obs_tensors.items()}

    def write_outputs(self, t: int, outputs: dict[str, Tensor]) -> Arrays:
        """Takes in what the module returned for row `t`, from any device; returns that row, each array (B, ...)."""
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
        """Makes twice the room."""

        def longer(array: np.ndarray, rows: int) -> np.ndarray:
            made = np.zeros((rows, *array.shape[1:]), array.dtype)
            made[: len(array)] = array
            return made

        self.capacity *= 2
        self.obs = {key: longer(array, self.capacity + 1) for key, array in self.obs.items()}
        self.outputs = {key: longer(array, self.capacity) for key, array in self.outputs.items()}
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
            setattr(self, name, longer(getattr(self, name), self.capacity))
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
        num_episodes: int | None = None,
    ) -> Rollout:
        """The first `rows` rows; with `num_episodes` nothing but that many episodes, those that ended first."""
        is_step = self.is_step[:rows]
        if num_episodes is not None:
            done = [segment for segment in find_segments(is_step, self.terminated[:rows] | self.truncated[:rows])]
            is_step = np.zeros_like(is_step)
            for segment in done[:num_episodes]:
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
        )
