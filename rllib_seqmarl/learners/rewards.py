"""The rewards that agents learn from, including changes to team rewards by callbacks or connectors."""

from __future__ import annotations

import numpy as np


def compute_training_rewards(
    team_rewards: np.ndarray,
    env_rewards: np.ndarray,
    agent_rewards: np.ndarray,
    *,
    shared_reward: bool,
    team_reward: str,
) -> np.ndarray:
    """Compute each agent's rewards to learn from.

    RLlib's callbacks and connectors can change only the team's reward, the one reward per step that RLlib supports. A
    change is passed on to the agents' rewards so that these stay consistent with the team's: if the team's reward is
    their mean, each agent gets the whole change; if it is their sum, each gets an equal part.

    Args:
        team_rewards: (...), the current team rewards.
        env_rewards: (...), the team rewards as returned by the environment.
        agent_rewards: (..., n), each agent's own rewards.
        shared_reward: Whether every agent learns from the team's reward instead of its own.
        team_reward: How the team's reward is computed from the agents' rewards, "mean" or "sum".

    Returns:
        Rewards, (..., n).
    """
    if shared_reward:
        return np.broadcast_to(team_rewards[..., None], agent_rewards.shape).astype(np.float32)
    if np.array_equal(team_rewards, env_rewards):
        return agent_rewards
    changes = team_rewards - env_rewards
    if team_reward == "sum":
        changes = changes / np.float32(agent_rewards.shape[-1])
    return agent_rewards + changes[..., None]
