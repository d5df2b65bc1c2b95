"""Rollouts and episodes as RLlib training data, in equal shares for all learners."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.rllib.core.learner.training_data import TrainingData

from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.shares import split_rollouts

Shards = list[tuple[TrainingData, dict[str, int]]]


@dataclass
class EpisodeData(TrainingData):
    """Episodes, as sampled by RLlib's own loop."""

    @property
    def env_steps(self) -> int:
        """The number of steps."""
        return sum(map(len, self.episodes or ()))

    def shard(self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: Any) -> Shards:
        """Return a share for each learner, and the number of minibatches that each learner makes of its share."""
        shares = TrainingData(episodes=self.episodes).shard(num_shards, len_lookback_buffer)
        return _shards([EpisodeData(episodes=share.episodes) for share, _ in shares], self.env_steps, **kwargs)


@dataclass
class RolloutData(TrainingData):
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
        """The number of steps."""
        return sum(rollout.env_steps for rollout in self.rollouts)

    def shard(self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: Any) -> Shards:
        """Return a share for each learner, and the number of minibatches that each learner makes of its share."""
        shares = split_rollouts(self.rollouts, num_shards)
        return _shards([RolloutData(rollouts=share) for share in shares], self.env_steps, **kwargs)


def _shards(
    shares: Sequence[TrainingData], env_steps: int, minibatch_size: int | None = None, num_epochs: int = 1, **_: Any
) -> Shards:
    """Add to every share the number of minibatches, the same for all, because learners apply them together."""
    total = 0
    if minibatch_size is not None and len(shares) > 1:
        total = max(1, num_epochs * env_steps // (len(shares) * minibatch_size))
    return [(share, {"num_total_minibatches": total}) for share in shares]
