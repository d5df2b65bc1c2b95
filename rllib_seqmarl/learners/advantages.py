"""Per-agent advantages: the rewards behind them, their estimation, and normalisation over living agents."""

import numpy as np
import torch
from torch import Tensor

from rllib_seqmarl.learners.distributed import sum_over_learners

AGENT_EARNS = "agent_earns"  # column: whether the agent still collected its return, (B, n)


def compute_training_rewards(
    team_rewards: np.ndarray,
    env_rewards: np.ndarray,
    agent_rewards: np.ndarray,
    *,
    shared_reward: bool,
    team_reward: str,
) -> np.ndarray:
    """Compute each agent's rewards to learn from, (..., n).

    RLlib's callbacks and connectors can change only the team's reward, the one reward per step that RLlib supports. A
    change is passed on to the agents' rewards so that these stay consistent with the team's: if the team's reward is
    their mean, each agent gets the whole change; if it is their sum, each gets an equal part.

    Args:
        team_rewards: (...), the current team rewards.
        env_rewards: (...), the team rewards as returned by the environment.
        agent_rewards: (..., n), each agent's own rewards.
        shared_reward: Whether every agent learns from the team's reward instead of its own.
        team_reward: How the team's reward is computed from the agents' rewards, "mean" or "sum".
    """
    if shared_reward:
        return np.broadcast_to(team_rewards[..., None], agent_rewards.shape).astype(np.float32)
    if np.array_equal(team_rewards, env_rewards):
        return agent_rewards
    changes = team_rewards - env_rewards
    if team_reward == "sum":
        changes = changes / np.float32(agent_rewards.shape[-1])
    return agent_rewards + changes[..., None]


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


def normalize_advantages(advantages: Tensor, alive: Tensor, per_agent: bool = False) -> Tensor:
    """Standardise advantages (..., n) by their mean and standard deviation over the living steps of all learners.

    Args:
        advantages: The advantages.
        alive: Which of them count, (..., n).
        per_agent: Whether each agent has its own mean and standard deviation. An agent that is updated on its own
            would otherwise be moved by the mean of its advantages, as if by a poor baseline.
    """
    alive = alive.to(torch.float64)
    advantages64 = advantages.to(torch.float64)
    axes = tuple(range(alive.dim() - per_agent))
    sums = torch.stack([x.sum(axes) for x in (advantages64 * alive, advantages64.square() * alive, alive)])
    sum_over_learners(sums)
    mean = sums[0] / sums[2].clamp_min(1.0)
    std = (sums[1] / sums[2].clamp_min(1.0) - mean.square()).clamp_min(0.0).sqrt()
    return ((advantages64 - mean) / (std + 1e-5)).to(advantages.dtype)
