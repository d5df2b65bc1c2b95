"""Rollouts and episodes as RLlib training data, in equal shares for all learners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.rllib.core.learner.training_data import TrainingData

from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.shares import split_rollouts


class TeamData(TrainingData):
    """RLlib training data, sharded so that all learners make the same number of updates."""

    @property
    def env_steps(self) -> int:
        """The number of steps."""
        raise NotImplementedError

    def shard(self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: Any) -> list[Any]:
        """Return a share for each learner, and the number of minibatches that each learner makes of its share."""
        size, total = kwargs.get("minibatch_size"), 0
        if size is not None and num_shards > 1:
            total = max(1, kwargs.get("num_epochs", 1) * self.env_steps // (num_shards * size))
        return [(share, {"num_total_minibatches": total}) for share in self._split(num_shards, len_lookback_buffer)]

    def _split(self, num_shards: int, len_lookback_buffer: int | None) -> list[TrainingData]:
        raise NotImplementedError


@dataclass
class EpisodeData(TeamData):
    """Episodes, as sampled by RLlib's own loop."""

    @property
    def env_steps(self) -> int:
        return sum(map(len, self.episodes or ()))

    def _split(self, num_shards: int, len_lookback_buffer: int | None) -> list[TrainingData]:
        shares = TrainingData(episodes=self.episodes).shard(num_shards, len_lookback_buffer)
        return [EpisodeData(episodes=share.episodes) for share, _ in shares]


@dataclass
class RolloutData(TeamData):
    """Rollouts as training data.

    Attributes:
        rollouts: The rollouts that env runners have sampled.
    """

    rollouts: Sequence[Rollout] = field(default_factory=list)

    def validate(self) -> None:
        """Raise an error if there are no rollouts."""
        if not self.rollouts:
            raise ValueError("There is no rollout to learn from.")

    @property
    def env_steps(self) -> int:
        return sum(rollout.env_steps for rollout in self.rollouts)

    def _split(self, num_shards: int, len_lookback_buffer: int | None) -> list[TrainingData]:
        return [RolloutData(rollouts=share) for share in split_rollouts(self.rollouts, num_shards)]
