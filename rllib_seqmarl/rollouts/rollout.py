"""Consecutive steps of many joint environments, as arrays that are written once and read in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, overload

import gymnasium as gym
import numpy as np
import tree
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_seqmarl.rollouts.episodes import Segment, find_segments, make_episode

Arrays = dict[str, np.ndarray]
# The fields of a rollout that are arrays, or dicts of arrays, whose first axis is the row.
ROW_ARRAYS: tuple[str, ...] = ("obs", "outputs", "rewards", "env_rewards", "agent_rewards", "terminated", "truncated")
ROW_ARRAYS += ("is_step", "agent_terminated", "agent_earns")


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
        max_seq_len: The length of the windows in which a policy with memory learns; 0 without memory.
        states: With memory, the policy's states before rows 0, max_seq_len, 2 max_seq_len, ...: a tree of arrays
            (K, B, ...). Where a row is the first of an episode, the state is zeroed before it.
        last_state: The policy's state before row T, a tree of arrays (B, ...); None if there is none or it is unknown.
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
    max_seq_len: int = 0
    states: Any = None
    last_state: Any = None

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

    @cached_property
    def is_first(self) -> np.ndarray:
        """Whether the row is the first of an episode, (T, B)."""
        return np.concatenate([(self.lengths_before == 0)[None], ~self.is_step])[: self.num_rows]

    # -- episodes --------------------------------------------------------------------------------------------

    @cached_property
    def segments(self) -> list[Segment]:
        """The episode segments: first finished ones in the order of their ends, then running ones."""
        return find_segments(self.is_step, self.terminated | self.truncated)

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
        arrays = {key: tree.map_structure(ensure_writable, value) for key, value in self._row_arrays.items()}
        return replace(self, **arrays)

    # -- shares ----------------------------------------------------------------------------------------------

    def of_envs(self, first: int, last: int) -> Rollout:
        """Return environments `first` to `last` (exclusive) as views."""
        infos = {(t, b - first): info for (t, b), info in self.infos.items() if first <= b < last}
        rows = {**self._row_arrays, "states": self.states}
        parts = tree.map_structure(lambda array: None if array is None else array[:, first:last], rows)
        return replace(
            self,
            **parts,
            infos=infos,
            lengths_before=self.lengths_before[first:last],
            episodes_before=self.episodes_before[first:last],
            env_ids=self.env_ids[first:last],
            last_state=tree.map_structure(lambda x: None if x is None else x[first:last], self.last_state),
        )

    def of_rows(self, first: int, last: int) -> Rollout:
        """Return rows `first` to `last` (exclusive) as views; with memory, `first` and `last` are ends of windows."""
        parts = tree.map_structure(lambda array: array[first:last], self._row_arrays)
        parts["obs"] = {key: array[first : last + 1] for key, array in self.obs.items()}
        infos = {(t - first, b): info for (t, b), info in self.infos.items() if first <= t + 1 and t < last}
        resets = np.concatenate([np.ones((1, self.num_envs), np.bool_), ~self.is_step[:first]])  # (1 + first, B)
        steps = resets[::-1].argmax(axis=0)  # (B,), since the last reset, or since the first row if there is none
        lengths_before = steps + np.where(steps == first, self.lengths_before, 0)
        return replace(
            self,
            **parts,
            infos=infos,
            lengths_before=lengths_before,
            episodes_before=self.episodes_before + np.count_nonzero(~self.is_step[:first], axis=0),
            **self._states_of_rows(first, last),
        )

    def _states_of_rows(self, first: int, last: int) -> dict[str, Any]:
        """The states of rows `first` to `last` (exclusive)."""
        if not self.max_seq_len:
            return {"last_state": self.last_state if last == self.num_rows else None}
        end, windows = last // self.max_seq_len, slice(first // self.max_seq_len, -(-last // self.max_seq_len))
        last_state = self.last_state if last == self.num_rows else tree.map_structure(lambda x: x[end], self.states)
        return {"states": tree.map_structure(lambda x: x[windows], self.states), "last_state": last_state}

    @property
    def _row_arrays(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ROW_ARRAYS}

    def __reduce__(self) -> tuple[Any, ...]:
        # Episodes that were created share the arrays' memory, so they are not pickled.
        self.take_changes()
        return Rollout, tuple(getattr(self, field.name) for field in fields(self))


def ensure_writable(array: np.ndarray) -> np.ndarray:
    """Return the array, or a copy if it is read-only."""
    return array if array.flags.writeable else array.copy()
