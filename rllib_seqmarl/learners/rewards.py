"""The rewards that agents learn from, including changes to the team's reward by callbacks or connectors."""

from __future__ import annotations

import numpy as np


def rewards_to_learn_from(
    team_rewards: np.ndarray,
    env_rewards: np.ndarray,
    agent_rewards: np.ndarray,
    *,
    shared_reward: bool,
    team_reward: str,
) -> np.ndarray:
    """Each agent's rewards.

    RLlib knows one reward per step, the team's, so that is what its callbacks and connectors change. A change reaches
    the agents' own rewards such that these still make the team's: all agents get it where the team's reward is their
    mean, equal parts of it where it is their sum.

    Args:
        team_rewards: (...), as they are now.
        env_rewards: (...), as the environment gave them.
        agent_rewards: (..., n), each agent's own.
        shared_reward: Whether every agent learns from the team's reward, rather than from its own.
        team_reward: How agents' rewards make the team's, "mean" or "sum".

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
