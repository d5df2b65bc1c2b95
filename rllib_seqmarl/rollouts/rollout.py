"""Consecutive steps of many joint environments, as arrays that are written once and read in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, overload

import gymnasium as gym
import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_seqmarl.rollouts.episodes import Segment, find_segments, make_episode
from rllib_seqmarl.rollouts.shares import find_balanced_cuts

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Rollout(Sequence[SingleAgentEpisode]):
    """T steps of B joint environments with n agents each.

    Row t holds the observations, the policy's outputs for them, and the resulting rewards; the next observations are
    in row t + 1. An environment whose episode has ended is reset in the following row, which is not a step: its
    observation is the final one of the old episode, and the value predicted for it is the bootstrap value.

    A rollout is also a sequence of RLlib episodes or segments of episodes, finished ones first. They are created on
    demand and share the arrays' memory. Segments have no lookback.

    Attributes:
        obs: The teams' observations, each array (T + 1, B, ...).
        outputs: The module's outputs, each array (T, B, ...): "actions", "action_logp", "vf_preds" and any others.
        rewards: Team rewards to learn from, float32 (T, B); episodes share this memory, so callbacks may change them.
        env_rewards: Team rewards as returned by the environment, float32 (T, B).
        agent_rewards: Each agent's own reward, float32 (T, B, n).
        terminated: Whether the episode terminated at this step, (T, B).
        truncated: Whether the episode was truncated at this step, (T, B).
        is_step: Whether the row is a step of this environment, (T, B).
        agent_terminated: Whether the agent terminated at this step, (T, B, n).
        agent_earns: Whether the agent still collected its return at this step, (T, B, n): True until its own
            termination, also for a dead agent whose team plays on.
        infos: Infos by (t, b), without the entries stored as arrays: those of steps that ended an episode. If something
            may read them, also those of all other steps, of resets, and at (-1, b) of the first row's observations.
        lengths_before: The number of steps that the first row's episodes already had, (B,).
        episodes_before: The number of episodes that each environment had started before that of the first row, (B,).
        env_ids: A name for each environment; the name and the episode's number form the episode id.
        weights_seq_no: RLlib's sequence number of the weights that acted.
        spaces: The observation and action space of one environment.
    """

    obs: Arrays
    outputs: Arrays
    rewards: np.ndarray
    env_rewards: np.ndarray
    agent_rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    is_step: np.ndarray
    agent_terminated: np.ndarray
    agent_earns: np.ndarray
    infos: dict[tuple[int, int], dict[str, Any]]
    lengths_before: np.ndarray
    episodes_before: np.ndarray
    env_ids: list[str]
    weights_seq_no: int
    spaces: tuple[gym.Space, gym.Space]

    @property
    def num_rows(self) -> int:
        """T."""
        return len(self.is_step)

    @property
    def num_envs(self) -> int:
        """B."""
        return int(self.is_step.shape[1])

    @cached_property
    def env_steps(self) -> int:
        """The number of steps among the T x B rows."""
        return int(np.count_nonzero(self.is_step))

    @property
    def nbytes(self) -> int:
        """The total size of all arrays in bytes."""
        nested = [*self.obs.values(), *self.outputs.values()]
        flat = [value for value in vars(self).values() if isinstance(value, np.ndarray)]
        return sum(array.nbytes for array in [*nested, *flat])

    # -- episodes --------------------------------------------------------------------------------------------

    @cached_property
    def segments(self) -> list[Segment]:
        """The episode segments: first finished ones in the order of their ends, then running ones."""
        return find_segments(self.is_step, self.terminated | self.truncated)

    @property
    def chunks(self) -> list[Segment]:
        """Former name of `segments`."""
        return self.segments

    @cached_property
    def _episodes(self) -> dict[int, SingleAgentEpisode]:
        return {}

    def __len__(self) -> int:
        return len(self.segments)

    @overload
    def __getitem__(self, index: int) -> SingleAgentEpisode: ...
    @overload
    def __getitem__(self, index: slice) -> list[SingleAgentEpisode]: ...
    def __getitem__(self, index: int | slice) -> SingleAgentEpisode | list[SingleAgentEpisode]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index not in self._episodes:
            self._episodes[index] = make_episode(self, self.segments[index])
        return self._episodes[index]

    def take_changes(self) -> None:
        """Copy rewards that callbacks have changed in episodes into the arrays.

        `set_rewards` writes to the arrays directly, but a callback may have replaced an episode's reward buffer, or
        `agent_rewards` in its infos.

        Raises:
            ValueError: The length of an episode has changed.
        """
        for index, episode in self._episodes.items():
            env, first, last, _ = self.segments[index]
            if len(episode) != last - first:
                raise ValueError(
                    f"a callback has changed the length of an episode from {last - first} to {len(episode)} steps. "
                    f"Callbacks may change only rewards; use a learner connector to exclude steps from training."
                )
            rewards = np.asarray(episode.get_rewards(), np.float32)
            if not np.array_equal(rewards, self.rewards[first:last, env]):
                self.rewards[first:last, env] = rewards
            for t, info in enumerate(episode.get_infos(slice(1, None)), first):
                if not np.array_equal(info["agent_rewards"], self.agent_rewards[t, env]):
                    self.agent_rewards[t, env] = info["agent_rewards"]

    def writable(self) -> Rollout:
        """Return this rollout with copies of arrays that are read-only because they are in Ray's object store."""
        self.take_changes()
        arrays = {key: _map_arrays(value, ensure_writable) for key, value in self._row_arrays.items()}
        return replace(self, **arrays)

    # -- shares ----------------------------------------------------------------------------------------------

    def split(self, num_shares: int) -> list[Rollout]:
        """Split into shares of about equal numbers of steps, by environment, or by time if there are too few."""
        per_env = self.is_step.sum(axis=0)  # (B,)
        if np.count_nonzero(per_env) >= num_shares:
            cuts, select = find_balanced_cuts(per_env, num_shares), self.of_envs
        else:
            cuts, select = [self.num_rows * i // num_shares for i in range(num_shares + 1)], self.of_rows
        return [select(*cut) for cut in zip(cuts, cuts[1:], strict=False)]

    def of_envs(self, first: int, last: int) -> Rollout:
        """Return environments `first` to `last` (exclusive) as views."""
        infos = {(t, b - first): info for (t, b), info in self.infos.items() if first <= b < last}
        parts = {key: _map_arrays(value, lambda array: array[:, first:last]) for key, value in self._row_arrays.items()}
        return replace(
            self,
            **parts,
            infos=infos,
            lengths_before=self.lengths_before[first:last],
            episodes_before=self.episodes_before[first:last],
            env_ids=self.env_ids[first:last],
        )

    def of_rows(self, first: int, last: int) -> Rollout:
        """Return rows `first` to `last` (exclusive) as views."""
        parts = {key: _map_arrays(value, lambda array: array[first:last]) for key, value in self._row_arrays.items()}
        parts["obs"] = {key: array[first : last + 1] for key, array in self.obs.items()}
        infos = {(t - first, b): info for (t, b), info in self.infos.items() if first <= t + 1 and t < last}
        last_resets = [next((t for t in range(first - 1, -1, -1) if not column[t]), None) for column in self.is_step.T]
        lengths_before = [
            length + first if reset is None else first - reset - 1
            for reset, length in zip(last_resets, self.lengths_before, strict=True)
        ]
        return replace(
            self,
            **parts,
            infos=infos,
            lengths_before=np.array(lengths_before),
            episodes_before=self.episodes_before + np.count_nonzero(~self.is_step[:first], axis=0),
        )

    @property
    def _row_arrays(self) -> dict[str, Any]:
        """The arrays, or dicts of arrays, whose first axis is the row."""
        others = ("infos", "lengths_before", "episodes_before", "env_ids", "weights_seq_no", "spaces")
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in others}

    def __reduce__(self) -> tuple[Any, ...]:
        # Episodes that were created share the arrays' memory, so they are not pickled.
        self.take_changes()
        return Rollout, tuple(getattr(self, field.name) for field in fields(self))


def ensure_writable(array: np.ndarray) -> np.ndarray:
    """Return the array, or a copy if it is read-only."""
    return array if array.flags.writeable else array.copy()


def _map_arrays(arrays: Any, function: Any) -> Any:
    """Apply `function` to an array, or to all arrays of a dict."""
    if isinstance(arrays, dict):
        return {key: function(array) for key, array in arrays.items()}
    return function(arrays)
