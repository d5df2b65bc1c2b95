"""Rollouts as RLlib training data, and their conversion to a learner's batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_seqmarl.learners.advantages import AGENT_EARNS, normalize_advantages, per_agent_gae
from rllib_seqmarl.learners.rewards import compute_training_rewards
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.rollout import ensure_writable
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


def rollout_columns(
    rollouts: Sequence[Rollout],
    module: Any,
    *,
    gamma: float,
    lambda_: float,
    shared_reward: bool,
    team_reward: str = "mean",
    device: Any,
) -> dict[str, Any]:
    """Compute the train batch's columns, (B, n, ...) tensors on `device`, where B is the total number of steps.

    Args:
        rollouts: At least one rollout.
        module: A value function such as `JointSequenceModule`. It runs only on each rollout's last row: all other
            values, including those of final observations of episodes, were predicted while sampling.
        gamma: The discount factor.
        lambda_: GAE's lambda.
        shared_reward: Whether every agent learns from the team's reward instead of its own.
        team_reward: How the team's reward is computed from the agents' rewards, "mean" or "sum".
        device: The learner's device.

    Returns:
        OBS (a dict), ACTIONS, ACTION_LOGP, ADVANTAGES (normalised over the living agents of all learners),
        VALUE_TARGETS in reward units, VF_PREDS in the value normaliser's units, and AGENT_EARNS.
    """
    parts: list[dict[str, Any]] = []
    for rollout in rollouts:
        rollout.take_changes()
        last = {key: torch.from_numpy(ensure_writable(array[-1])).to(device) for key, array in rollout.obs.items()}
        with torch.no_grad():
            bootstrap = module.compute_values({Columns.OBS: last}).cpu().numpy()  # (envs, n)
        values = rollout.outputs[Columns.VF_PREDS]  # (T, envs, n), in reward units
        rewards = compute_training_rewards(
            rollout.rewards,
            rollout.env_rewards,
            rollout.agent_rewards,
            shared_reward=shared_reward,
            team_reward=team_reward,
        )  # (T, envs, n)
        advantages = per_agent_gae(
            rewards,
            np.concatenate([values, bootstrap[None]]),
            (~(rollout.terminated[..., None] | rollout.agent_terminated)).astype(np.float32),
            gamma=gamma,
            lambda_=lambda_,
            is_step=rollout.is_step,
        )  # (T, envs, n)
        select_steps = _make_step_selector(rollout)
        parts.append(
            {
                Columns.OBS: {key: select_steps(array[:-1]) for key, array in rollout.obs.items()},
                Columns.ACTIONS: select_steps(rollout.outputs[Columns.ACTIONS]),
                Columns.ACTION_LOGP: select_steps(rollout.outputs[Columns.ACTION_LOGP]),
                Columns.VF_PREDS: select_steps(values),
                Postprocessing.ADVANTAGES: select_steps(advantages),
                AGENT_EARNS: select_steps(rollout.agent_earns),
            }
        )
    columns = _concatenate(parts, device)
    columns[Postprocessing.VALUE_TARGETS] = columns[Postprocessing.ADVANTAGES] + columns[Columns.VF_PREDS]
    columns[Columns.VF_PREDS] = module.normalize_values(columns[Columns.VF_PREDS])
    columns[Postprocessing.ADVANTAGES] = normalize_advantages(
        columns[Postprocessing.ADVANTAGES], columns[Columns.OBS]["alive"]
    )
    return columns


def _make_step_selector(rollout: Rollout) -> Callable[[np.ndarray], Tensor]:
    """Return a function that selects the steps (B, ...) of an array (T, envs, ...); a view if all rows are steps."""
    if rollout.env_steps == rollout.is_step.size:
        return lambda array: torch.from_numpy(ensure_writable(array.reshape(-1, *array.shape[2:])))
    steps = torch.from_numpy(np.flatnonzero(rollout.is_step))

    def gather(array: np.ndarray) -> Tensor:
        return torch.from_numpy(ensure_writable(array.reshape(-1, *array.shape[2:])))[steps]

    return gather


def _concatenate(parts: list[Any], device: Any) -> Any:
    """Concatenate the columns of all parts on the device."""
    if isinstance(parts[0], dict):
        return {key: _concatenate([part[key] for part in parts], device) for key in parts[0]}
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(device)
