"""Advantages of every agent by itself: how they are estimated, and normalised over all that live."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.learners.distributed import sum_over_learners

AGENT_EARNS = "agent_earns"  # the column that says whose return still ran, (B, n)


def per_agent_gae(
    rewards: np.ndarray,
    values: np.ndarray,
    continues: np.ndarray,
    *,
    gamma: float,
    lambda_: float,
    is_step: np.ndarray | None = None,
) -> np.ndarray:
    """Generalised advantage estimation (arXiv 1506.02438), for every agent of every episode at once.

    Args:
        rewards: (T, ..., n), the reward that followed step t.
        values: (T + 1, ..., n), state values in reward units; the last row is the bootstrap value.
        continues: (T, ..., n), 1 where the agent's life went on after step t, 0 where it ended there. A truncated
            episode goes on as far as values are concerned: only a termination is a 0.
        gamma: The discount factor.
        lambda_: The exponential weight between bootstrapping (0) and Monte Carlo returns (1).
        is_step: (T, ...), which rows are steps, where some are not: those in which an environment was reset. An
            episode's last step bootstraps from the value of the row after it, and no advantage crosses that row.

    Returns:
        The advantages, (T, ..., n). Advantages plus `values[:-1]` are the value targets.
    """
    advantages = np.zeros_like(values[:-1])
    running = np.zeros_like(values[0])
    deltas = rewards + gamma * values[1:] * continues - values[:-1]
    decays = gamma * lambda_ * continues
    if is_step is not None:
        deltas, decays = deltas * is_step[..., None], decays * is_step[..., None]
    for t in reversed(range(len(rewards))):
        running = deltas[t] + decays[t] * running
        advantages[t] = running
    return advantages


def normalized_advantages(advantages: Tensor, alive: Tensor) -> Tensor:
    """Advantages less their mean over their standard deviation, both over the living agent-steps of all learners."""
    alive = alive.to(torch.float64)  # (B, n)
    wide = advantages.to(torch.float64)
    sums = torch.stack([(wide * alive).sum(), (wide.square() * alive).sum(), alive.sum()])
    sum_over_learners(sums)
    mean = sums[0] / sums[2].clamp_min(1.0)
    std = (sums[1] / sums[2].clamp_min(1.0) - mean.square()).clamp_min(0.0).sqrt()
    return ((wide - mean) / (std + 1e-5)).to(advantages.dtype)
