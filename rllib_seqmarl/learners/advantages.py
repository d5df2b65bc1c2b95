"""Per-agent advantages: estimation, and normalisation over all living agents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.learners.distributed import sum_over_learners

AGENT_EARNS = "agent_earns"  # column: whether the agent still collected its return, (B, n)


def per_agent_gae(
    rewards: np.ndarray,
    values: np.ndarray,
    continues: np.ndarray,
    *,
    gamma: float,
    lambda_: float,
    is_step: np.ndarray | None = None,
) -> np.ndarray:
    """Generalised advantage estimation (arXiv 1506.02438), vectorised over agents and episodes.

    Args:
        rewards: (T, ..., n), the reward that followed step t.
        values: (T + 1, ..., n), state values in reward units; the last row is the bootstrap value.
        continues: (T, ..., n), 0 where the agent terminated at step t, else 1, including where the episode was
            truncated.
        gamma: The discount factor.
        lambda_: The exponential weight between bootstrapping (0) and Monte Carlo returns (1).
        is_step: (T, ...), False in rows in which the environment was reset; None if all rows are steps. An episode's
            last step bootstraps from the value of the following row, and no advantage propagates across that row.

    Returns:
        The advantages, (T, ..., n). The value targets are the advantages plus `values[:-1]`.
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


def normalize_advantages(advantages: Tensor, alive: Tensor) -> Tensor:
    """Standardise advantages by their mean and standard deviation over the living agent-steps of all learners."""
    alive = alive.to(torch.float64)  # (B, n)
    advantages64 = advantages.to(torch.float64)
    sums = torch.stack([(advantages64 * alive).sum(), (advantages64.square() * alive).sum(), alive.sum()])
    sum_over_learners(sums)
    mean = sums[0] / sums[2].clamp_min(1.0)
    std = (sums[1] / sums[2].clamp_min(1.0) - mean.square()).clamp_min(0.0).sqrt()
    return ((advantages64 - mean) / (std + 1e-5)).to(advantages.dtype)
