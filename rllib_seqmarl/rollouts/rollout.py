"""A stretch of time of many joint environments, as arrays that are written once and read where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, overload

import gymnasium as gym
import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_seqmarl.rollouts.episodes import Segment, find_segments, make_episode
from rllib_seqmarl.rollouts.shares import balanced_cuts

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Rollout(Sequence[SingleAgentEpisode]):
    """T steps of B joint environments with n agents each.

    Row t holds what was seen, what the policy made of it, and what came of it; what was seen next is in row t + 1. An
    environment whose episode is over begins the next one in the following row, which is then no step: its observation
    is the last one of the old episode, and the value that was predicted for it is the one to bootstrap from.

    It is also the list of episodes, or pieces of episodes, that RLlib's samples are, those that ended first. These
    are created on demand, and share the arrays' memory. The pieces have no lookback.

    Attributes:
        obs: What the teams saw, each array (T + 1, B, ...).
        outputs: What the module returned, each array (T, B, ...): "actions", "action_logp", "vf_preds" and whatever
            else it gives.
        rewards: The teams' to learn from, float32 (T, B); episodes share this memory, so callbacks may change them.
        env_rewards: The teams' as the environment gave them, float32 (T, B).
        agent_rewards: Each agent's own, float32 (T, B, n).
        terminated: Whether the episode came to its own end with this step, (T, B).
        truncated: Whether it was cut off, (T, B).
        is_step: Whether the row is a step of this environment, (T, B).
        agent_terminated: Whose life ended with this step, (T, B, n).
        agent_earns: Whether the agent's return still ran at this step, (T, B, n): until its own termination, also of an
            agent that is dead while its team plays on.
        infos: Infos by (t, b), without what the arrays hold: of each step that ended an episode, and, where something
            may read them, of all steps, of resets, and at (-1, b) of the first row's observations.
        lengths_before: How many steps the first row's episodes had already had, (B,).
        episodes_before: How many episodes each environment had begun before that of the first row, (B,).
        env_ids: A name for each environment, which makes its episodes' ids together with their numbers.
        weights_seq_no: Which weights acted, as RLlib counts them.
        spaces: Of one environment: observation and action.
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
        """Bytes of all arrays."""
        tables = [*self.obs.values(), *self.outputs.values()]
        flat = [value for value in vars(self).values() if isinstance(value, np.ndarray)]
        return sum(array.nbytes for array in [*tables, *flat])

    # -- as episodes -----------------------------------------------------------------------------------------

    @cached_property
    def segments(self) -> list[Segment]:
        """The segments of episodes: completed ones in the order of their ends, then running ones."""
        return find_segments(self.is_step, self.terminated | self.truncated)

    @property
    def chunks(self) -> list[Segment]:
        """The former name of `segments`."""
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
        """Writes rewards that callbacks have changed in episodes into the arrays.

        `set_rewards` writes there by itself; an episode's reward buffer, or `agent_rewards` in its infos, may also have
        been replaced.

        Raises:
            ValueError: An episode has got another length.
        """
        for index, episode in self._episodes.items():
            env, first, last, _ = self.segments[index]
            if len(episode) != last - first:
                raise ValueError(
                    f"a callback has changed the length of an episode from {last - first} to {len(episode)} steps. "
                    f"Change rewards only; what is not to be learned from belongs into a learner connector."
                )
            rewards = np.asarray(episode.get_rewards(), np.float32)
            if not np.array_equal(rewards, self.rewards[first:last, env]):
                self.rewards[first:last, env] = rewards
            for t, info in enumerate(episode.get_infos(slice(1, None)), first):
                if not np.array_equal(info["agent_rewards"], self.agent_rewards[t, env]):
                    self.agent_rewards[t, env] = info["agent_rewards"]

    def writable(self) -> Rollout:
        """This rollout, with copies of arrays that are read-only because they lie in Ray's object store."""
        self.take_changes()
        tables = {key: _map(value, writable) for key, value in self._tables.items()}
        return replace(self, **tables)

    # -- as shares -------------------------------------------------------------------------------------------

    def split(self, num_shares: int) -> list[Rollout]:
        """Shares of about equal numbers of steps: of the environments, or of the time if these are too few."""
        per_env = self.is_step.sum(axis=0)  # (B,)
        if np.count_nonzero(per_env) >= num_shares:
            cuts, part = balanced_cuts(per_env, num_shares), self.of_envs
        else:
            cuts, part = [self.num_rows * i // num_shares for i in range(num_shares + 1)], self.of_rows
        return [part(*cut) for cut in zip(cuts, cuts[1:], strict=False)]

    def of_envs(self, first: int, last: int) -> Rollout:
        """The environments `first` to before `last`, in views."""
        infos = {(t, b - first): info for (t, b), info in self.infos.items() if first <= b < last}
        parts = {key: _map(value, lambda array: array[:, first:last]) for key, value in self._tables.items()}
        return replace(
            self,
            **parts,
            infos=infos,
            lengths_before=self.lengths_before[first:last],
            episodes_before=self.episodes_before[first:last],
            env_ids=self.env_ids[first:last],
        )

    def of_rows(self, first: int, last: int) -> Rollout:
        """The rows `first` to before `last`, in views."""
        parts = {key: _map(value, lambda array: array[first:last]) for key, value in self._tables.items()}
        parts["obs"] = {key: array[first : last + 1] for key, array in self.obs.items()}
        infos = {(t - first, b): info for (t, b), info in self.infos.items() if first <= t + 1 and t < last}
        begun = [next((t for t in range(first - 1, -1, -1) if not column[t]), None) for column in self.is_step.T]
        before = [
            length + first if start is None else first - start - 1
            for start, length in zip(begun, self.lengths_before, strict=True)
        ]
        return replace(
            self,
            **parts,
            infos=infos,
            lengths_before=np.array(before),
            episodes_before=self.episodes_before + np.count_nonzero(~self.is_step[:first], axis=0),
        )

    @property
    def _tables(self) -> dict[str, Any]:
        """The arrays with a row for every step."""
        others = ("infos", "lengths_before", "episodes_before", "env_ids", "weights_seq_no", "spaces")
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in others}

    def __reduce__(self) -> tuple[Any, ...]:
        # Episodes that were made share memory with the arrays, and stay behind.
        self.take_changes()
        return Rollout, tuple(getattr(self, field.name) for field in fields(self))


def writable(array: np.ndarray) -> np.ndarray:
    """The array itself, or a copy of one that is read-only."""
    return array if array.flags.writeable else array.copy()


def _map(table: Any, function: Any) -> Any:
    """`function` of an array, or of all arrays of a dict."""
    if isinstance(table, dict):
        return {key: function(array) for key, array in table.items()}
    return function(table)
