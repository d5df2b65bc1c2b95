"""Preallocated arrays that an env runner writes row by row."""

from typing import Any

import numpy as np
import torch
import tree
from torch import Tensor

from rllib_seqmarl.envs.layout import Arrays, TeamLayout
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.episodes import find_segments
from rllib_seqmarl.rollouts.rollout import ROW_ARRAYS

_IN_ARRAYS = ("agent_rewards", "agent_terminateds", "agent_earns", "team_reward")  # infos that are stored as arrays


class RolloutBuffer:
    """Buffer of `capacity` rows of `num_envs` joint environments, and the observations after the last row.

    The operating system allocates memory only when it is written to, so unused capacity costs nothing.

    Args:
        layout: The environments' layout.
        num_envs: Number of environments, B.
        capacity: Number of rows.
        first_obs: The first observations, each array (B, ...).
        **constants: The rollout's other fields that are known beforehand.
    """

    def __init__(self, layout: TeamLayout, num_envs: int, capacity: int, first_obs: Arrays, **constants: Any) -> None:
        shape = capacity, num_envs
        self.capacity = capacity
        self._constants = constants
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
        self.write_obs(0, first_obs)

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
        return {key: torch.from_numpy(array[t]) for key, array in self.obs.items()}

    def write_outputs(self, t: int, outputs: dict[str, Tensor]) -> Arrays:
        """Write the module's outputs for row `t`, from any device; return that row, each array (B, ...)."""
        if not self.outputs:
            self.outputs = {
                key: np.empty((self.capacity, *output.shape), torch.empty(0, dtype=output.dtype).numpy().dtype)
                for key, output in outputs.items()
            }
        rows = {key: array[t] for key, array in self.outputs.items()}
        for key, output in outputs.items():
            torch.from_numpy(rows[key]).copy_(output)
        return rows

    def write_step(self, t: int, is_step: Any, step_result: tuple[Any, ...], keeps_infos: bool) -> None:
        """Write the results of row `t`; infos of steps that end no episode only if `keeps_infos`.

        Args:
            t: The row.
            is_step: Whether the row is a step, (B,).
            step_result: What `JointVector.step_into` returned: rewards, terminations, truncations (B,) each, and infos.
            keeps_infos: Whether to store all infos.
        """
        rewards, terminated, truncated, infos = step_result
        self.is_step[t], self.terminated[t], self.truncated[t] = is_step, terminated, truncated
        self.rewards[t] = self.env_rewards[t] = rewards
        self.agent_rewards[t] = infos["agent_rewards"]
        for key, array in (("agent_terminateds", self.agent_terminated), ("agent_earns", self.agent_earns)):
            if key in infos:
                has_info = infos[f"_{key}"]  # (B,)
                array[t, has_info] = np.stack(list(infos[key][has_info])).astype(bool)
        done = terminated | truncated
        if keeps_infos or done.any():
            for key in infos:
                if key[0] == "_" or key in _IN_ARRAYS:
                    continue
                mask = infos[f"_{key}"] if keeps_infos else infos[f"_{key}"] & done  # (B,)
                for env in np.flatnonzero(mask).tolist():
                    self.infos.setdefault((t, env), {})[key] = infos[key][env]

    def write_failure(self, t: int) -> None:
        """Write that the environments failed in row `t`; earlier rows remain valid."""
        self.write_step(t, False, (0.0, np.False_, np.False_, {"agent_rewards": 0.0}), False)

    def grow(self) -> None:
        """Double the capacity."""
        added = self.capacity

        def extend(array: np.ndarray) -> np.ndarray:
            extended = np.zeros((len(array) + added, *array.shape[1:]), array.dtype)
            extended[: len(array)] = array
            return extended

        for name in ROW_ARRAYS:
            setattr(self, name, tree.map_structure(extend, getattr(self, name)))
        self.agent_earns[added:] = True
        self.capacity += added

    def rollout(self, rows: int, *, num_episodes: int | None = None, last_state: Any = None) -> Rollout:
        """Return the first `rows` rows; with `num_episodes`, only the steps of the episodes that ended first."""
        arrays = {name: tree.map_structure(lambda array: array[:rows], getattr(self, name)) for name in ROW_ARRAYS}
        arrays["obs"] = {key: array[: rows + 1] for key, array in self.obs.items()}
        if num_episodes is not None:
            segments = find_segments(arrays["is_step"], arrays["terminated"] | arrays["truncated"])
            arrays["is_step"] = np.zeros_like(arrays["is_step"])
            for segment in segments[:num_episodes]:
                arrays["is_step"][segment.first : segment.last, segment.env] = segment.is_done
        states = tree.map_structure(lambda *x: np.stack(x), *self.states) if self.states else None
        return Rollout(**arrays, infos=self.infos, states=states, last_state=last_state, **self._constants)
