"""Rollouts as RLlib's training data, and as one batch of a learner."""

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

from rllib_seqmarl.learners.advantages import AGENT_EARNS, normalized_advantages, per_agent_gae
from rllib_seqmarl.learners.rewards import rewards_to_learn_from
from rllib_seqmarl.rollouts import Rollout
from rllib_seqmarl.rollouts.rollout import ensure_writable
from rllib_seqmarl.rollouts.shares import split_rollouts


class TeamData(TrainingData):
    """RLlib's training data, shared out so that all learners make the same number of updates."""

    @property
    def env_steps(self) -> int:
        """The number of steps."""
        raise NotImplementedError

    def shard(self, num_shards: int, len_lookback_buffer: int | None = None, **kwargs: Any) -> list[Any]:
        """A share for each learner, and with how many minibatches all go through their shares."""
        size, total = kwargs.get("minibatch_size"), 0
        if size is not None and num_shards > 1:
            total = max(1, kwargs.get("num_epochs", 1) * self.env_steps // (num_shards * size))
        return [(share, {"num_total_minibatches": total}) for share in self._shares(num_shards, len_lookback_buffer)]

    def _shares(self, num_shards: int, len_lookback_buffer: int | None) -> list[TrainingData]:
        raise NotImplementedError


@dataclass
class EpisodeData(TeamData):
    """Episodes, as RLlib's own loop samples them."""

    @property
    def env_steps(self) -> int:
        return sum(map(len, self.episodes or ()))

    def _shares(self, num_shards: int, len_lookback_buffer: int | None) -> list[TrainingData]:
        shares = TrainingData(episodes=self.episodes).shard(num_shards, len_lookback_buffer)
        return [EpisodeData(episodes=share.episodes) for share, _ in shares]


@dataclass
class RolloutData(TeamData):
    """Rollouts.

    Attributes:
        rollouts: What env runners have sampled.
    """

    rollouts: Sequence[Rollout] = field(default_factory=list)

    def validate(self) -> None:
        """There is something to learn from."""
        if not self.rollouts:
            raise ValueError("There is no rollout to learn from.")

    @property
    def env_steps(self) -> int:
        return sum(rollout.env_steps for rollout in self.rollouts)

    def _shares(self, num_shards: int, len_lookback_buffer: int | None) -> list[TrainingData]:
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
    """The columns to learn from, (B, n, ...) tensors on `device`, where B is the number of all steps.

    Args:
        rollouts: At least one.
        module: What values observations, as `JointSequenceModule` does. It runs on each rollout's last row only: all
            other values were predicted while sampling, those of last observations of episodes among them.
        gamma: The discount factor.
        lambda_: GAE's lambda.
        shared_reward: Whether every agent learns from the team's reward, rather than from its own.
        team_reward: How agents' rewards make the team's, "mean" or "sum".
        device: Where learning happens.

    Returns:
        OBS (a dict), ACTIONS, ACTION_LOGP, ADVANTAGES (normalised over the living agents of all learners),
        VALUE_TARGETS in reward units, VF_PREDS in the value normaliser's, AGENT_EARNS.
    """
    parts: list[dict[str, Any]] = []
    for rollout in rollouts:
        rollout.take_changes()
        last = {key: torch.from_numpy(ensure_writable(array[-1])).to(device) for key, array in rollout.obs.items()}
        with torch.no_grad():
            bootstrap = module.compute_values({Columns.OBS: last}).cpu().numpy()  # (envs, n)
        values = rollout.outputs[Columns.VF_PREDS]  # (T, envs, n), in reward units
        rewards = rewards_to_learn_from(
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
        rows = _steps_of(rollout)
        parts.append(
            {
                Columns.OBS: {key: rows(array[:-1]) for key, array in rollout.obs.items()},
                Columns.ACTIONS: rows(rollout.outputs[Columns.ACTIONS]),
                Columns.ACTION_LOGP: rows(rollout.outputs[Columns.ACTION_LOGP]),
                Columns.VF_PREDS: rows(values),
                Postprocessing.ADVANTAGES: rows(advantages),
                AGENT_EARNS: rows(rollout.agent_earns),
            }
        )
    columns = _joined(parts, device)
    columns[Postprocessing.VALUE_TARGETS] = columns[Postprocessing.ADVANTAGES] + columns[Columns.VF_PREDS]
    columns[Columns.VF_PREDS] = module.normalize_values(columns[Columns.VF_PREDS])
    columns[Postprocessing.ADVANTAGES] = normalized_advantages(
        columns[Postprocessing.ADVANTAGES], columns[Columns.OBS]["alive"]
    )
    return columns


def _steps_of(rollout: Rollout) -> Callable[[np.ndarray], Tensor]:
    """From an array (T, envs, ...) to its steps (B, ...): the same memory where every row is a step."""
    if rollout.env_steps == rollout.is_step.size:
        return lambda array: torch.from_numpy(ensure_writable(array.reshape(-1, *array.shape[2:])))
    steps = torch.from_numpy(np.flatnonzero(rollout.is_step))

    def gather(array: np.ndarray) -> Tensor:
        return torch.from_numpy(ensure_writable(array.reshape(-1, *array.shape[2:])))[steps]

    return gather


def _joined(parts: list[Any], device: Any) -> Any:
    """The columns of all parts, one after the other, on the device."""
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts], device) for key in parts[0]}
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(device)
