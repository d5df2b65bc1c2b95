"""The joint objective and per-agent GAE as pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rllib_seqmarl.learners.advantages import per_agent_gae
from rllib_seqmarl.learners.joint_ppo_loss import joint_ppo_loss


def inputs() -> dict[str, Any]:
    """Create a fixed random batch of 4 team steps and 3 agents."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(4, 3, generator=generator, dtype=torch.float64)

    return {
        "log_probs": draw() * 0.1 - 1.0,
        "old_log_probs": draw() * 0.1 - 1.0,
        "advantages": draw(),
        "entropy": draw().abs(),
        "values": draw(),
        "old_values": draw(),
        "value_targets": draw(),
        "weights": torch.full((4, 3), 1 / 12, dtype=torch.float64),
        "clip_param": 0.2,
        "vf_clip_param": 0.2,
        "huber_delta": 10.0,
        "vf_loss_coeff": 1.0,
        "entropy_coeff": 0.01,
    }


def loss(**changes: Any) -> dict[str, Tensor]:
    """Compute the loss of the random batch with some inputs replaced."""
    return joint_ppo_loss(**{**inputs(), **changes})


def value_loss_of_error(error: float, huber_delta: float | None) -> float:
    """Compute the unclipped value loss if every prediction is off by `error`."""
    values = torch.zeros(4, 3, dtype=torch.float64)
    return loss(
        values=values, old_values=values, value_targets=values + error, vf_clip_param=1e9, huber_delta=huber_delta
    )["vf_loss"].item()


def test_the_value_loss_is_linear_for_large_errors() -> None:
    for error in (30.0, -30.0):
        assert value_loss_of_error(error, huber_delta=10.0) == pytest.approx(10.0 * (30.0 - 5.0))
        assert value_loss_of_error(error, huber_delta=None) == pytest.approx(0.5 * 30.0**2)
    assert value_loss_of_error(-2.0, huber_delta=10.0) == pytest.approx(2.0)


@pytest.mark.parametrize(("log_ratio", "advantage", "is_active"), [(0.5, 1, False), (0.5, -1, True), (-0.5, -1, False)])
def test_clipping_stops_the_policy_gradient(log_ratio: float, advantage: float, is_active: bool) -> None:
    log_probs = torch.full((4, 3), log_ratio, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    loss(log_probs=log_probs, old_log_probs=zeros, advantages=zeros + advantage)["total"].backward()
    assert log_probs.grad is not None
    assert bool(log_probs.grad.abs().sum() > 0) == is_active


def test_dead_agents_do_not_affect_the_loss() -> None:
    weights = torch.ones(4, 3, dtype=torch.float64)
    weights[2, 1] = 0.0
    weights /= weights.sum()
    plain = loss(weights=weights)
    change = torch.zeros(4, 3, dtype=torch.float64)
    change[2, 1] = 5.0
    for key in ("log_probs", "old_log_probs", "advantages", "entropy", "values", "old_values", "value_targets"):
        changed = loss(weights=weights, **{key: inputs()[key] + change})
        assert changed["total"].item() == pytest.approx(plain["total"].item(), abs=1e-12), key
        assert changed["clip_fraction"].item() == pytest.approx(plain["clip_fraction"].item(), abs=1e-12), key


def test_continuous_actions_are_clipped_dimension_by_dimension() -> None:
    zeros = torch.zeros(4, 3, 2, dtype=torch.float64)
    log_probs = zeros.clone()
    log_probs[..., 0] = 1.0  # this dimension is clipped, the other is not
    log_probs.requires_grad_()
    loss(
        log_probs=log_probs,
        old_log_probs=zeros,
        entropy=zeros,
        advantages=torch.ones(4, 3, dtype=torch.float64),
    )["total"].backward()
    assert log_probs.grad is not None
    assert torch.all(log_probs.grad[..., 0] == 0) and torch.all(log_probs.grad[..., 1] < 0)


@given(
    horizon=st.integers(1, 12),
    n=st.integers(1, 4),
    gamma=st.floats(0, 1),
    lambda_=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_gae_is_the_weighted_sum_of_td_errors(horizon: int, n: int, gamma: float, lambda_: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(horizon, n)), rng.normal(size=(horizon + 1, n))
    continues = (rng.random((horizon, n)) > 0.3).astype(float)
    advantages = per_agent_gae(rewards, values, continues, gamma=gamma, lambda_=lambda_)
    for agent in range(n):
        for t in range(horizon):
            expected, weight = 0.0, 1.0
            for k in range(t, horizon):
                follow = gamma * continues[k, agent]
                expected += weight * (rewards[k, agent] + follow * values[k + 1, agent] - values[k, agent])
                weight *= follow * lambda_
            assert advantages[t, agent] == pytest.approx(expected, abs=1e-9)
