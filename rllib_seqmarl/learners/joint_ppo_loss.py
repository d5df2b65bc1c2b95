"""The mathematics of the joint PPO update, as pure functions on tensors.

By the multi-agent advantage decomposition theorem (Kuba et al., arXiv 2109.11251) the advantage of a joint action is
the sum of the advantages of its agents' actions, each given its predecessors'. The Multi-Agent Transformer
(arXiv 2205.14953, eq. 4 and 5) therefore applies PPO's clipped objective to each agent's ratio separately.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def joint_ppo_loss(
    *,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    entropy: Tensor,
    values: Tensor,
    old_values: Tensor,
    value_targets: Tensor,
    weights: Tensor,
    value_weights: Tensor | None = None,
    factor: Tensor | None = None,
    clip_param: float,
    vf_clip_param: float,
    huber_delta: float | None,
    vf_loss_coeff: float,
    entropy_coeff: float | Tensor,
) -> dict[str, Tensor]:
    """Compute PPO's clipped objective per agent.

    The leading dimensions B may be several, such as windows and time. If the weights of several calls sum to 1 in
    total, the terms of these calls sum to those of a single call.

    Args:
        log_probs: Log-probabilities of the actions under the current policy: (B, n), or (B, n, k) for continuous
            actions of k dimensions, which are clipped dimension by dimension.
        old_log_probs: The same under the policy that acted.
        advantages: (B, n), normalised.
        entropy: Same shape as `log_probs`.
        values: (B, n), the current value predictions, in the value normaliser's units.
        old_values: (B, n), those at the time of acting, in the same units.
        value_targets: (B, n), in the same units.
        weights: (B, n), the weight of each agent-step in the policy loss and the entropy: 0 where the agent is dead,
            else 1 / (number of living agent-steps), so that sums are means.
        value_weights: The same for the value loss: 0 where the agent's return has ended. A dead agent whose team still
            collects rewards has a value, which its last steps' values bootstrap from. Defaults to `weights`.
        factor: (B, n), multiplies the surrogate after the minimum, as HAPPO's M does (arXiv 2109.11251); None for 1.
        clip_param: The ratio's clipping range is 1 +- this.
        vf_clip_param: Value predictions may differ from `old_values` by this much before they are clipped.
        huber_delta: Where the value loss changes from quadratic to linear; None for the quadratic loss.
        vf_loss_coeff: The weight of the value loss.
        entropy_coeff: The weight of the entropy bonus.

    Returns:
        Scalars: "total", which is differentiable, and without gradients "policy_loss", "vf_loss" (over agent-steps that
        collect a return), "entropy", "clip_fraction" and "approx_kl" (over living agents' steps).
    """
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    # The last axis is the action dimension, of size 1 if an agent's action has one log-probability.
    ratio = ratio.reshape(*weights.shape, -1)  # (B, n, k)
    log_ratio = log_ratio.reshape(*weights.shape, -1)
    advantages = advantages.unsqueeze(-1)  # (B, n, 1)
    clipped_ratio = ratio.clamp(1.0 - clip_param, 1.0 + clip_param)
    surrogate = torch.minimum(ratio * advantages, clipped_ratio * advantages).sum(-1)  # (B, n)
    if factor is not None:
        surrogate = factor * surrogate
    policy_loss = -(weights * surrogate).sum()

    clipped_values = old_values + (values - old_values).clamp(-vf_clip_param, vf_clip_param)
    value_errors = torch.maximum(
        _value_error(values, value_targets, huber_delta), _value_error(clipped_values, value_targets, huber_delta)
    )
    value_loss = ((weights if value_weights is None else value_weights) * value_errors).sum()

    mean_entropy = (weights * entropy.reshape(*weights.shape, -1).sum(-1)).sum()
    total = policy_loss + vf_loss_coeff * value_loss - entropy_coeff * mean_entropy
    with torch.no_grad():
        clipped = ((ratio - 1.0).abs() > clip_param).to(weights.dtype).mean(-1)
        # Low-variance, non-negative estimator of KL(old || new): (r - 1) - log r.
        kl = (ratio - 1.0 - log_ratio).sum(-1)
    return {
        "total": total,
        "policy_loss": policy_loss.detach(),
        "vf_loss": value_loss.detach(),
        "entropy": mean_entropy.detach(),
        "clip_fraction": (weights * clipped).sum(),
        "approx_kl": (weights * kl).sum(),
    }


def _value_error(values: Tensor, targets: Tensor, huber_delta: float | None) -> Tensor:
    """Half the squared error, linear for absolute errors above `huber_delta`; (B, n)."""
    if huber_delta is None:
        return 0.5 * F.mse_loss(values, targets, reduction="none")
    return F.huber_loss(values, targets, reduction="none", delta=huber_delta)


def explained_variance(values: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """1 - Var[targets - values] / Var[targets] over weighted agent-steps; 1 is perfect, 0 as good as a constant."""
    total = weights.sum().clamp_min(1e-8)

    def variance(x: Tensor) -> Tensor:
        mean = (weights * x).sum() / total
        return (weights * (x - mean) ** 2).sum() / total

    return 1.0 - variance(targets - values) / variance(targets).clamp_min(1e-8)
